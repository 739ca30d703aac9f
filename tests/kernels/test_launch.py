import inspect

import pytest
import torch
from hfcnn.kernels.launch import OPS

from hfcnn import Network, ops
from hfcnn.network import ConvLayer

LAYERS = [
    layer for layer in Network.preset("cnn5", (32, 32, 3), 10).layers if isinstance(layer, ConvLayer)
] + [
    ConvLayer(224, 224, 512, 512, (3, 3), (1, 1), (1, 1), (2, 2)),
    ConvLayer(9, 9, 7, 40, (5, 4), (2, 1), (0, 3), (3, 2)),
]


def arguments(op, layer, *, dtype=torch.float32, n_images=2, rows=3):
    """Correct arguments of an op, by name."""
    n, out, w = n_images, layer.output_shape, layer.weight_shape
    shapes = {
        "z": (n, *layer.input_shape),
        "z_dot": (n, *layer.input_shape),
        "w": w,
        "v": w,
        "b": (layer.filters,),
        "v_bias": (layer.filters,),
        "g": (n, *out),
        "D": (n, rows, *out),
        "q": (n, rows),
    }
    names = inspect.signature(getattr(ops, op)).parameters
    values = {name: torch.ones(shapes[name], dtype=dtype) for name in names if name in shapes}
    if "selection" in names:
        values["selection"] = torch.zeros((n, *out), dtype=torch.uint8)
    return {**values, "layer": layer}


def test_wrappers_are_the_twins_of_ops(kernels):
    wrappers = [name for name in kernels.__all__ if name in kernels.OPS]
    assert set(wrappers) == set(kernels.OPS)
    for name in wrappers:
        ours = dict(inspect.signature(getattr(kernels, name)).parameters)
        precision = ours.pop("precision", None)
        assert (precision is None) == (name == "cg_update")
        twin = inspect.signature(getattr(ops, name)).parameters
        assert list(ours) == list(twin)
        assert [x.kind for x in ours.values()] == [x.kind for x in twin.values()]
        assert [x.default for x in ours.values()] == [x.default for x in twin.values()]
        if precision is not None:
            assert precision.kind == inspect.Parameter.KEYWORD_ONLY and precision.default == "tf32"


def draw_launches(kernels):
    for target in kernels.TARGETS.values():
        for op in kernels.OPS:
            for dtype in ("fp32", "fp64", "bf16"):
                for precision in ("tf32", "tf32x3", "ieee"):
                    for layer in LAYERS if op != "cg_update" else [None]:
                        yield from kernels.launches(
                            op, layer, 100, dtype=dtype, precision=precision, target=target
                        )


def test_launches_are_complete_and_fit(kernels):
    for launch in draw_launches(kernels):
        names = list(launch.kernel.arg_names)
        assert sorted([*launch.signature, *launch.constexprs]) == sorted(names)
        assert list(launch.signature) == [name for name in names if name in launch.signature]
        assert len(launch.grid) <= 3 and min(launch.grid) >= 1 and max(launch.grid[1:], default=1) < 65536
        assert launch.options == {"enable_fp_fusion": True}
        for name, size in launch.constexprs.items():
            assert not name.startswith("BLOCK") or (size & (size - 1) == 0 and size > 0)
        assert launch.flops >= 0 and launch.bytes_read > 0 and launch.bytes_unfused >= 0


def test_tiles_fit_shared_memory(kernels):
    from hfcnn.kernels.tiles import tile_for

    consumer = kernels.Target("sm_120", "cuda", 120, 101_376, 32, 170)
    for target in (consumer, *kernels.TARGETS.values()):
        for kind in ("forward", "vjp_input", "vjp_weight", "gram", "patch_gram"):
            for dtype, size in (("fp32", 4), ("fp64", 8)):
                for layer in LAYERS:
                    request = kernels.launch.Request(layer, 10, dtype, "tf32", target, 1, False)
                    tile = tile_for(kind, request)
                    assert tile.num_stages * size * (tile.p + tile.c) * tile.k <= target.shared_memory
                    assert min(tile.p, tile.c, tile.k) >= 16


def test_precision_that_a_target_lacks_is_ieee(kernels):
    layer = LAYERS[1]
    old = kernels.Target("sm_75", "cuda", 75, 65_536, 32, 72)
    for target, precision, expected in (
        (old, "tf32", "ieee"),
        (kernels.TARGETS["gfx942"], "tf32", "tf32"),
        (kernels.TARGETS["gfx942"], "tf32x3", "ieee"),
        (kernels.Target("gfx90a", "hip", "gfx90a", 65_536, 64, 104), "tf32", "ieee"),
        (kernels.TARGETS["sm_90"], "tf32x3", "tf32x3"),
    ):
        *_, launch = kernels.launches("conv_forward", layer, 4, precision=precision, target=target)
        assert launch.constexprs["PRECISION"] == expected


def test_counts(kernels):
    layer = ConvLayer(4, 4, 3, 5, (3, 3), (1, 1), (1, 1), (2, 2))
    target = kernels.TARGETS["sm_90"]
    *_, forward = kernels.launches("conv_forward", layer, 2, target=target)
    assert forward.flops == 2 * 2 * 16 * 5 * 27
    assert forward.bytes_read == 4 * (2 * 48 + 135 + 5)
    assert forward.bytes_written == 5 * 2 * 20
    *_, jvp = kernels.launches("conv_jvp", layer, 2, target=target)
    *_, first = kernels.launches("conv_jvp", layer, 2, target=target, is_first=True)
    assert jvp.flops == 2 * first.flops == 2 * forward.flops
    for op in set(kernels.OPS) - {"cg_update"}:
        total = kernels.launches(op, layer, 64, target=target)
        assert sum(x.bytes_unfused for x in total) > total[0].bytes_read
        assert sum(x.flops for x in total) > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"op": "conv"}, "op must be one of"),
        ({"dtype": "fp16"}, "dtype must be one of"),
        ({"precision": "exact"}, "precision must be one of"),
    ],
)
def test_unknown_requests(changed, message, kernels):
    request = {"op": "conv_forward", "dtype": "fp32", "precision": "tf32", **changed}
    with pytest.raises(ValueError, match=message):
        kernels.launches(layer=LAYERS[0], n_images=1, target=kernels.TARGETS["sm_90"], **request)


@pytest.mark.parametrize("op", [op for op in OPS if op != "cg_update"])
def test_wrong_arguments_are_named(op, kernels):
    layer = ConvLayer(6, 5, 2, 3, (3, 3), (1, 1), (1, 1), (2, 2))
    right = arguments(op, layer)
    call = getattr(kernels, op)
    call(**right)
    for name in set(right) - {"layer"}:
        tensor = right[name]
        for wrong in (
            tensor[..., None, :1],
            tensor.to(torch.float16),
            tensor.transpose(0, -1).contiguous().transpose(0, -1),
        ):
            if wrong.shape == tensor.shape and wrong.is_contiguous() and wrong.dtype == tensor.dtype:
                continue
            with pytest.raises(ValueError, match=rf"^({name}|w|v|b|z) must"):
                call(**{**right, name: wrong})
    with pytest.raises(ValueError, match="precision must be one of"):
        call(**right, precision="exact")


def test_selection_must_be_codes(kernels):
    layer = ConvLayer(6, 5, 2, 3, (3, 3), (1, 1), (1, 1), (2, 2))
    right = arguments("conv_vjp_input", layer)
    _, selection = ops.conv_forward(torch.ones(2, 6, 5, 2), right["w"], torch.ones(3), layer)
    with pytest.raises(ValueError, match="selection must be uint8 codes; got Selection"):
        kernels.conv_vjp_input(**{**right, "selection": selection})
