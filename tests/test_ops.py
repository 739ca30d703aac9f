import dense
import pytest
import torch
import torch.nn.functional as F
from networks import CASES

from hfcnn import ops
from hfcnn.backend import TORCH_OPS
from hfcnn.layers import ConvLayer, DenseLayer

LAYERS = {
    f"{case.name}-{m}": (case, m)
    for case in CASES
    for m, layer in enumerate(case.network.layers)
    if isinstance(layer, ConvLayer)
}
K = 3


def reference(z, w, b, layer):
    """The layer on NHWC images by torch's functions, ReLU before pooling."""
    s = F.conv2d(z.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2), b, layer.stride, layer.padding)
    pool = F.max_pool2d if layer.pooling == "max" else F.avg_pool2d
    return pool(F.relu(s), layer.pool).permute(0, 2, 3, 1)


@pytest.fixture(params=LAYERS, ids=str)
def problem(request, generator):
    """A layer with its input, parameters, directions and cotangents at the right shapes."""
    case, m = LAYERS[request.param]
    layer = case.network.layers[m]
    theta, images, _ = case.draw()
    parameters = case.network.parameters(theta)
    z = images
    for k in range(m):
        z = reference(z, *parameters[k], case.network.layers[k]).contiguous()
    w, b = parameters[m]

    def like(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "layer": layer,
        "z": z,
        "w": w,
        "b": b,
        "z_dot": like(*z.shape),
        "v": like(*w.shape),
        "v_bias": like(*b.shape),
        "g": like(len(z), *layer.output_shape),
        "rows": like(len(z), K, *layer.output_shape),
        "q": like(len(z), K),
    }


each_max_pooling = pytest.mark.parametrize(
    "problem",
    [name for name, (case, m) in LAYERS.items() if case.network.layers[m].pooling == "max"],
    indirect=True,
)


def selections(p):
    """The selection in each of its forms: average pooling has one, max pooling two."""
    _, selection = ops.conv_forward(p["z"], p["w"], p["b"], p["layer"])
    return [selection] if p["layer"].pooling == "average" else [selection, ops.encode(selection)]


def test_forward(problem):
    p = problem
    expected = reference(p["z"], p["w"], p["b"], p["layer"]).contiguous()
    z_next, _ = ops.conv_forward(p["z"], p["w"], p["b"], p["layer"])
    dense.assert_close(z_next, expected)
    dense.assert_close(ops.conv_value(p["z"], p["w"], p["b"], p["layer"]), expected)
    assert z_next.is_contiguous()


def test_jvp(problem):
    p = problem
    layer = p["layer"]
    arguments, tangents = (p["z"], p["w"], p["b"]), (p["z_dot"], p["v"], p["v_bias"])
    _, expected = torch.func.jvp(lambda *a: reference(*a, layer), arguments, tangents)
    zero = (torch.zeros_like(p["z"]), p["v"], p["v_bias"])
    _, without_input = torch.func.jvp(lambda *a: reference(*a, layer), arguments, zero)
    for selection in selections(p):
        actual = ops.conv_jvp(p["z"], p["z_dot"], p["w"], p["v"], p["v_bias"], selection, layer)
        dense.assert_close(actual, expected)
        first = ops.conv_jvp(p["z"], None, p["w"], p["v"], p["v_bias"], selection, layer)
        dense.assert_close(first, without_input)


def test_vjp(problem):
    p = problem
    layer = p["layer"]
    _, vjp = torch.func.vjp(lambda *a: reference(*a, layer), p["z"], p["w"], p["b"])
    g_z, g_w, g_b = vjp(p["g"])
    for selection in selections(p):
        actual = ops.conv_vjp(p["g"], p["z"], p["w"], selection, layer)
        dense.assert_close(actual[0], g_z)
        dense.assert_close(actual[1], g_w)
        dense.assert_close(actual[2], g_b)
        without_input = ops.conv_vjp(p["g"], p["z"], p["w"], selection, layer, needs_input=False)
        assert without_input[0] is None
        dense.assert_close(without_input[1], g_w)
        dense.assert_close(ops.conv_vjp_input(p["g"], p["w"], selection, layer), g_z)
        g_w_only, g_b_only = ops.conv_vjp_weight(p["g"], p["z"], selection, layer)
        dense.assert_close(g_w_only, g_w)
        dense.assert_close(g_b_only, g_b)


@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
def test_vjp_of_one_pixel_filters_with_strides(stride, padding, generator, monkeypatch):
    layer = ConvLayer(7, 8, 3, 5, (1, 1), stride, padding, (1, 1))
    z, w = torch.randn(4, 7, 8, 3, generator=generator), torch.randn(5, 1, 1, 3, generator=generator)
    z, w, b = z.double().requires_grad_(), w.double().requires_grad_(), torch.zeros(5, dtype=torch.float64)
    out, selection = ops.conv_forward(z.detach(), w.detach(), b, layer)
    g = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(reference(z, w, b, layer), (z, w), g)
    # the library's own gradients with such strides crash the process on some processors, in float32
    strides, library = [], torch.ops.aten.convolution_backward

    def watched(*arguments):
        strides.append(arguments[4])
        return library(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", watched)
    found = ops.conv_vjp(g, z.detach(), w.detach(), selection, layer)
    found_input = ops.conv_vjp_input(g, w.detach(), selection, layer)
    torch.testing.assert_close(found[:2], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_input, expected[0], rtol=1e-12, atol=1e-12)
    assert strides == [(1, 1), (1, 1)]


def test_vjp_of_k_rows_an_image(problem):
    p = problem
    _, vjp = torch.func.vjp(lambda z: reference(z, p["w"], p["b"], p["layer"]), p["z"])
    expected = torch.stack([vjp(p["rows"][:, k])[0] for k in range(K)], 1)
    for selection in selections(p):
        dense.assert_close(ops.conv_vjp_input(p["rows"], p["w"], selection, p["layer"]), expected)


def test_jacobian_products(problem):
    p = problem
    layer = p["layer"]
    z_next, _ = ops.conv_forward(p["z"], p["w"], p["b"], layer)
    D = p["rows"] * (z_next > 0).unsqueeze(1)

    def to_outputs(w, b):
        return torch.einsum("nkhwo,nhwo->nk", D, reference(p["z"], w, b, layer))

    _, expected = torch.func.jvp(to_outputs, (p["w"], p["b"]), (p["v"], p["v_bias"]))
    _, vjp = torch.func.vjp(to_outputs, p["w"], p["b"])
    g_w, g_b = vjp(p["q"])
    for selection in selections(p):
        dense.assert_close(ops.jacobian_jvp(p["z"], D, p["v"], p["v_bias"], selection, layer), expected)
        actual = ops.jacobian_vjp(p["z"], D, p["q"], selection, layer)
        dense.assert_close(actual[0], g_w)
        dense.assert_close(actual[1], g_b)


def test_parameter_jacobian(problem):
    """Each of the K rows is the gradient in weight and bias that its row of the output's cotangents gives."""
    layer, z = problem["layer"], problem["z"]
    for selection in selections(problem):
        live = (ops.conv_value(z, problem["w"], problem["b"], layer) > 0).unsqueeze(1)
        D = problem["rows"] * live
        block = ops.parameter_jacobian(ops.unfold(z, layer), D, selection, layer)
        for i in range(len(z)):
            for k in range(K):
                one = slice(i, i + 1)
                w, b = (problem[name].clone().requires_grad_() for name in ("w", "b"))
                (reference(z[one], w, b, layer) * D[i, k]).sum().backward()
                dense.assert_close(block[i, k], torch.cat((w.grad.flatten(), b.grad)))


def test_arguments_are_left_alone(problem):
    p = problem
    layer = p["layer"]
    selection, *codes = selections(p)
    tensors = {name: value for name, value in p.items() if name != "layer"} | dict(enumerate(codes))
    before = {name: value.clone() for name, value in tensors.items()}
    ops.conv_value(p["z"], p["w"], p["b"], layer)
    for s in (selection, *codes):
        ops.conv_jvp(p["z"], p["z_dot"], p["w"], p["v"], p["v_bias"], s, layer)
        ops.conv_vjp(p["g"], p["z"], p["w"], s, layer)
        ops.conv_vjp_input(p["rows"], p["w"], s, layer)
        ops.jacobian_jvp(p["z"], p["rows"], p["v"], p["v_bias"], s, layer)
        ops.jacobian_vjp(p["z"], p["rows"], p["q"], s, layer)
    for name, was in before.items():
        assert torch.equal(tensors[name], was), name
    if codes:
        assert torch.equal(ops.encode(selection), codes[0])


def codes_by_hand(p):
    """Selection codes from the pre-activations, a window position at a time; also the most winners in one."""
    layer = p["layer"]
    s = F.conv2d(p["z"].permute(0, 3, 1, 2), p["w"].permute(0, 3, 1, 2), p["b"], layer.stride, layer.padding)
    s = s.permute(0, 2, 3, 1)
    best = torch.full((len(s), *layer.output_shape), -torch.inf, dtype=s.dtype)
    code = torch.zeros(best.shape, dtype=torch.uint8)
    n_winners = torch.zeros(best.shape, dtype=torch.int64)
    for position in range(layer.pool[0] * layer.pool[1]):
        i, j = divmod(position, layer.pool[1])
        window = s[:, i :: layer.pool[0], j :: layer.pool[1]][:, : layer.out_height, : layer.out_width]
        code[window > best] = position
        n_winners = torch.where(window > best, 1, n_winners + (window == best))
        best = torch.maximum(best, window)
    code[best <= 0] = ops.RELU_OFF
    return code, n_winners[best > 0]


@each_max_pooling
def test_codes_equal_those_by_hand(problem):
    _, code = selections(problem)
    assert code.dtype == torch.uint8
    assert torch.equal(code, codes_by_hand(problem)[0])


@pytest.mark.parametrize("problem", ["ties-everywhere-0", "ties-and-zeros-0"], indirect=True)
def test_first_position_wins_a_tie(problem):
    by_hand, n_winners = codes_by_hand(problem)
    assert n_winners.max() > 1, "this case has no tie"
    assert torch.equal(selections(problem)[1], by_hand)


@each_max_pooling
def test_codes_round_trip(problem):
    _, code = selections(problem)
    assert torch.equal(ops.encode(ops.decode(code, problem["layer"], torch.float64)), code)


@each_max_pooling
def test_drawn_codes_round_trip(problem, generator):
    layer = problem["layer"]
    shape = (2, *layer.output_shape)
    code = torch.randint(layer.pool[0] * layer.pool[1] + 1, shape, generator=generator).to(torch.uint8)
    code[code == layer.pool[0] * layer.pool[1]] = ops.RELU_OFF
    assert torch.equal(ops.encode(ops.decode(code, layer, torch.float64)), code)


@pytest.mark.parametrize("is_linear", [True, False], ids=["linear", "relu"])
def test_dense_layer(is_linear, generator):
    shapes = {"z": (4, 5), "w": (3, 5), "b": (3,), "z_dot": (4, 5), "v": (3, 5), "v_b": (3,), "g": (4, 3)}
    t = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}

    def function(z, w, b):
        s = F.linear(z, w, b)
        return s if is_linear else F.relu(s)

    layer = DenseLayer(5, 3, is_linear)
    arguments = (t["z"], t["w"], t["b"])
    outputs, tangent = torch.func.jvp(function, arguments, (t["z_dot"], t["v"], t["v_b"]))
    _, tangent_first = torch.func.jvp(function, arguments, (torch.zeros_like(t["z"]), t["v"], t["v_b"]))
    expected = torch.func.vjp(function, *arguments)[1](t["g"])
    dense.assert_close(layer.value(*arguments, TORCH_OPS), outputs)
    z_next, live = layer.forward(*arguments, TORCH_OPS)
    dense.assert_close(z_next, outputs)
    dense.assert_close(layer.jvp(t["z"], t["z_dot"], t["w"], t["v"], t["v_b"], live, TORCH_OPS), tangent)
    dense.assert_close(layer.jvp(t["z"], None, t["w"], t["v"], t["v_b"], live, TORCH_OPS), tangent_first)
    gradient = torch.full((3 * 5 + 3,), torch.nan, dtype=torch.float64)
    g_input = layer.vjp(t["g"], t["z"], t["w"], live, TORCH_OPS, gradient, needs_input=True)
    for mine, e in zip((g_input, gradient[:15].view(3, 5), gradient[15:]), expected, strict=True):
        dense.assert_close(mine, e)
    assert layer.vjp(t["g"], t["z"], t["w"], live, TORCH_OPS, gradient, needs_input=False) is None


def test_parameter_rows_of_a_dense_layer(generator):
    """No dense layer has fewer parameters than outputs, so nothing else asks for these."""
    z, rows = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 5), (4, 2, 3)))
    block = DenseLayer(5, 3).parameter_rows(z, rows, None)
    for i in range(4):
        for k in range(2):
            expected = torch.cat((torch.outer(rows[i, k], z[i]).flatten(), rows[i, k]))
            dense.assert_close(block[i, k], expected)


def test_cg_update_is_one_step_by_hand():
    x, r, p, Ap = (torch.tensor(v, dtype=torch.float64) for v in ([1, 0], [2, 2], [2, 2], [4, 0]))
    status = torch.tensor([8.0, torch.nan], dtype=torch.float64)
    before = torch.full((2, 2), torch.nan, dtype=torch.float64)
    ops.cg_update(x, r, p, Ap, status, before)
    # alpha = 8 / 8, so x + p and r - Ap; beta = 8 / 8
    assert status.tolist() == [8.0, 8.0] and before.tolist() == [[1, 0], [2, 2]]
    assert (x.tolist(), r.tolist(), p.tolist()) == ([3, 2], [-2, 2], [0, 4])
