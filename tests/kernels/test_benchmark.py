"""The benchmark: its implementations agree, its gate holds, and its commands say what was measured."""

import importlib
import json
from dataclasses import replace

import pytest
import torch
from hfcnn.kernels.launch import TARGETS
from hfcnn.kernels.tiles import Tile
from hfcnn.kernels.tools import benchmark, benchmark_cases, tune
from hfcnn.kernels.tools.benchmark_cases import draw_arguments, gate, implementations, judged_outputs, truth
from hfcnn.kernels.tools.cli import app
from hfcnn.kernels.tools.report_cases import USES, cases
from hfcnn.kernels.tools.rows import written
from typer.testing import CliRunner

from hfcnn import ops
from hfcnn.network import Conv, ConvLayer, Network

# torch's own, at the first use of torch.func.jvp
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

CPU = torch.device("cpu")
LAYERS = {
    "pooled": Network([Conv(5, 3, pool=2)], (7, 6, 3), 4).layers[0],
    "strided": Network([Conv(4, 3, stride=2)], (7, 6, 3), 4).layers[0],
}
CONVOLUTIONS = [op for op in USES if op != "cg_update"]


def small(op: str, layer: ConvLayer, **options):
    return draw_arguments(op, layer, 3, CPU, n_outputs=4 if "jacobian" in op else 1, **options)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("op", CONVOLUTIONS)
def test_implementations_agree_with_float64(op, layer):
    one = small(op, layer)
    calls = implementations(one, None, "ieee", compiles=False)
    assert list(calls) == (["torch"] if op.endswith("gram") else ["torch", "func"])
    for call in calls.values():
        error, passes = gate(truth(one), judged_outputs(one, call()), "ieee")
        assert passes and error < 2e-6


@pytest.mark.parametrize("op", ["conv_jvp", "conv_vjp_input"])
def test_implementations_of_the_first_layer_and_of_many_cotangents(op):
    layer = LAYERS["pooled"]
    one = draw_arguments(op, layer, 3, CPU, is_first=op == "conv_jvp", n_outputs=1 if op == "conv_jvp" else 4)
    for call in implementations(one, None, "ieee", compiles=False).values():
        assert gate(truth(one), judged_outputs(one, call()), "ieee")[1]


def test_gate_judges_the_selection_by_what_it_picks():
    one = small("conv_forward", LAYERS["pooled"])
    z_next, selection = implementations(one, None, "ieee", compiles=False)["torch"]()
    code = ops.encode(selection)
    assert gate(truth(one), judged_outputs(one, (z_next, code)), "ieee")[1]
    live = (code != ops.RELU_OFF).nonzero()[0]
    code[tuple(live)] = (code[tuple(live)] + 1) % 4
    assert not gate(truth(one), judged_outputs(one, (z_next, code)), "tf32")[1]


def test_repeated_cg_updates_stay_finite():
    one = draw_arguments("cg_update", None, 1000, CPU)
    (call,) = implementations(one, None, "ieee", compiles=False).values()
    expected = truth(one)
    assert gate(expected, judged_outputs(one, call()), "ieee")[1]
    for _ in range(2000):
        result = call()
    assert all(bool(value.isfinite().all()) for value in judged_outputs(one, result))


def test_gate_fails_a_wrong_and_a_missing_element():
    want = torch.ones(10, dtype=torch.float64)
    assert gate((want,), (want.float(),), "ieee") == (0.0, True)
    wrong = want.clone()
    wrong[3] += 0.02
    assert gate((want,), (wrong,), "tf32") == (pytest.approx(0.02), False)
    wrong[3] = torch.nan
    error, passes = gate((want,), (wrong,), "tf32")
    assert not passes and error != error


def test_what_fails_the_gate_is_not_timed(monkeypatch):
    settings = benchmark.settings_here(networks=("cnn3",), ops=("conv_value",), n_images=1)
    settings = replace(settings, device=CPU, kernels=None, seconds=0.0)
    honest = benchmark_cases.implementations

    def with_a_wrong_one(one, *arguments):
        calls = honest(one, *arguments)
        return {**calls, "func": lambda: calls["torch"]() + 1}

    monkeypatch.setattr(benchmark, "implementations", with_a_wrong_one)
    first = next(benchmark.measure(settings, whole=False))
    assert set(first.seconds) == {"torch"}
    assert "not timed" in first.notes["func"] and first.errors["func"] > 0.01
    # 1 image, 28 x 28 outputs of 32 filters over 5 x 5 inputs
    assert first.flops == 2 * 28 * 28 * 32 * 25


def test_whole_product_is_judged_too():
    settings = benchmark.settings_here(networks=("cnn3",), ops=("conv_value",), n_images=2)
    settings = replace(settings, device=CPU, kernels=None, seconds=0.0, images=("MNIST",))
    *_, product, iteration = benchmark.measure(settings)
    assert set(product.seconds) == {"torch", "func"} and max(product.errors.values()) < 1e-5
    assert set(iteration.seconds) == {"torch"} and not iteration.notes


def test_command_says_that_no_gpu_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--op", "conv_jvp", "--images", "2", "--no-whole"]
    options += ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    result = CliRunner().invoke(app, ["benchmark", *options])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "No GPU was measured" in text and "conv_jvp" in text
    about, *rows = [json.loads(line) for line in (tmp_path / "b.json").read_text().splitlines()]
    assert about["is_gpu"] is False and len(rows) == 3 and rows[0]["what"] == "conv_jvp"
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_rows_are_written_as_they_come_until_the_time_is_up(tmp_path):
    asked = []

    def rows():
        for i in range(5):
            asked.append(i)
            yield i

    path = tmp_path / "rows.jsonl"
    found = written(rows(), path, lambda i: {"row": i}, first={"about": 1}, seconds=60)
    assert next(found) == 0
    assert path.read_text() == '{"about": 1}\n{"row": 0}\n'
    assert list(written(rows(), path, lambda i: {"row": i}, seconds=-1)) == [0]
    assert path.read_text() == '{"row": 0}\n' and asked == [0, 0]


def test_command_names_what_is_unknown():
    result = CliRunner().invoke(app, ["benchmark", "--op", "conv_jvq"])
    assert result.exit_code == 2 and "conv_jvq" in result.output


def test_tune_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["tune"])
    assert result.exit_code == 1 and "needs a GPU" in result.stderr


def test_candidates_fit_in_registers():
    current = Tile(64, 64, 32, 4, 2)
    for kind in ("forward", "vjp_input", "vjp_weight", "gram", "patch_gram"):
        found = tune.candidates(current, kind)
        assert found[0] == current and len(found) == len(set(found)) > 50
        for tile in found:
            rows = {"forward": tile.p * tile.windows, "vjp_input": tile.p}.get(kind, tile.k)
            assert rows * tile.c <= tune.MAX_ACCUMULATORS * tile.num_warps * 32


def test_best_row_is_the_fastest_over_all_shapes():
    shapes = cases(("cnn3",), ("sm_90",), ("conv_jvp",), ("MNIST",))[1:]
    now, fast_once, better = Tile(64, 64, 32, 4, 3), Tile(32, 64, 32, 4, 3), Tile(128, 64, 32, 8, 3)
    times = {now: (1.0, 10.0), fast_once: (0.1, float("inf")), better: (0.8, 9.0)}
    trials = [
        tune.TileTrial(case, "forward", tile, seconds[index], tile == now)
        for tile, seconds in times.items()
        for index, case in enumerate(shapes)
    ]
    (row,) = tune.best_rows(trials, "sm_90", "tf32")
    assert row.startswith('("forward", "sm_90", "tf32"): Tile(p=128') and row.endswith("0.85 of now")


@pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a GPU with the interpreter")
def test_tune_tries_tiles_and_restores_the_table(monkeypatch):
    tiles = importlib.import_module("hfcnn.kernels.tiles")
    before = dict(tiles._TABLE)
    monkeypatch.setattr(tune, "candidates", lambda current, kind, warp: [current, Tile(32, 32, 16, 4, 2)])
    settings = benchmark.settings_here(networks=("cnn3",), ops=("conv_jvp",), n_images=1)
    settings = replace(settings, images=("MNIST",), seconds=0.0, precision="ieee")
    settings = replace(settings, kernels=importlib.import_module("hfcnn.kernels"))
    monkeypatch.setattr(tune, "time_call", lambda call, device, seconds: 1.0)
    third = cases(("cnn3",), ("sm_90",), ("conv_jvp",), ("MNIST",))[2:]
    monkeypatch.setattr(tune, "cases", lambda *arguments: third)
    trials = list(tune.tune(settings, ("conv_jvp",)))
    assert [trial.is_current for trial in trials] == [True, False]
    assert [(trial.seconds, trial.note) for trial in trials] == [(1.0, "")] * 2
    assert tiles._TABLE == before


def test_kinds_name_every_tiled_op():
    assert set(tune.TILE_KINDS) == set(USES) - {"cg_update"}
    assert all(hasattr(ops, op) for op in USES)
    assert set(TARGETS) == {"sm_80", "sm_90", "sm_100", "gfx942"}
