"""The compile report: counting, reading machine code, rules, cache, and the command in a clean process."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from hfcnn.kernels.launch import TARGETS
from hfcnn.kernels.tools.compile_report import MAX_SPILL, _key, _row, compile_cases, faults, source_hash
from hfcnn.kernels.tools.machine_code import MachineCode, compiler_environment, count_dots, inspect_amdgcn
from hfcnn.kernels.tools.matrix_units import NEWEST_UNITS, Product, count_units, off_newest, products
from hfcnn.kernels.tools.report_cases import USES, cases, other_cases, quick_cases
from hfcnn.kernels.tools.report_tables import product_lines, report_markdown
from hfcnn.kernels.tools.report_versions import dot_lines, read_versions, sections, version_lines
from hfcnn.kernels.tools.roofline import GPUS, Resources, find_gpu, gpu_of_arch, occupancy, roofline

AMDGCN = """
    v_mfma_f32_32x32x4_xf32 a[0:15], v[0:1], v[2:3], a[0:15]
    v_mfma_f32_32x32x4_xf32 a[0:15], v[4:5], v[6:7], a[0:15]
    .group_segment_fixed_size: 0
    .private_segment_fixed_size: 96
    .sgpr_spill_count: 3
    .vgpr_count:     132
    .vgpr_spill_count: 20
"""
TTIR = """
    %a = tt.dot %x, %y, %z, inputPrecision = tf32 : tensor<64x32xf32> * tensor<32x64xf32> -> tensor<64x64xf32>
    %b = tt.dot %x, %y, %z : tensor<64x32xf32> * tensor<32x64xf32> -> tensor<64x64xf32>
"""
TRIVIAL = """
import json
from dataclasses import asdict
import triton
import triton.language as tl
from hfcnn.kernels.launch import TARGETS, Launch
from hfcnn.kernels.tools.machine_code import compile_launch, compiler_environment

@triton.jit
def product(a, b, c, K: tl.constexpr, B: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, B)
    acc = tl.zeros((B, B), tl.float32)
    for k in range(0, K, 32):
        o_k = k + tl.arange(0, 32)
        x = tl.load(a + i[:, None] * K + o_k[None, :])
        y = tl.load(b + o_k[:, None] * B + i[None, :])
        acc = tl.dot(x, y, acc, input_precision=PRECISION)
    tl.store(c + i[:, None] * B + i[None, :], acc)

def plan(size, precision, warps):
    constants = {"K": 256, "B": size, "PRECISION": precision}
    return Launch("product", product, dict.fromkeys("abc", "*fp32"), constants, warps, 2, (1,), 1, 1, 1, 1)

with compiler_environment():
    codes = {name: compile_launch(plan(64, "tf32", 4), target) for name, target in TARGETS.items()}
    codes["spills"] = compile_launch(plan(128, "tf32", 1), TARGETS["sm_80"])
    codes["ieee"] = compile_launch(plan(64, "ieee", 4), TARGETS["sm_90"])
    codes["refused"] = compile_launch(plan(64, "tf16", 4), TARGETS["sm_90"])
print(json.dumps({name: asdict(code) for name, code in codes.items()}))
"""


def run_python(*arguments, interpreted=False):
    """Run Python as a user would, outside this process, whose Triton may be the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


def test_compiles_for_every_target_without_a_gpu(tmp_path):
    script = tmp_path / "trivial.py"  # a file, because Triton reads a kernel's source
    script.write_text(textwrap.dedent(TRIVIAL))
    result = run_python(script)
    assert result.returncode == 0, result.stderr
    codes = {name: MachineCode(**code) for name, code in json.loads(result.stdout).items()}
    for target, unit in (("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA"), ("gfx942", "xf32")):
        code = codes[target]
        assert not code.error
        assert code.registers > 16 and code.spilled == 0 and code.shared > 0
        assert code.dots == {"tf32": 1}
        assert len(code.matrix) == 1 and unit in next(iter(code.matrix))
        assert {one.unit for one in products(code.units)} == {NEWEST_UNITS[target]}
        assert faults(target, code) == ()
    found = faults("sm_80", codes["spills"])
    assert found[0] == f"spills {codes['spills'].spilled} bytes" and "in loops" in found[1]
    assert codes["ieee"].matrix == {} and faults("sm_90", codes["ieee"]) == ()
    assert [one.unit for one in products(codes["ieee"].units)] == ["FMA"]
    assert codes["refused"].error.startswith("CompilationError") and faults("sm_90", codes["refused"])


@pytest.mark.slow
def test_command_compiles_once_even_where_the_interpreter_is_on(tmp_path):
    command = [
        "-c",
        "from hfcnn.kernels.tools.cli import app; app()",
        "report",
        "--quick",
        "--op",
        "conv_jvp",
    ]
    options = ["--target", "sm_90", "--cache", tmp_path / "cache", "--json", tmp_path / "report.json"]
    options += ["--markdown", tmp_path / "report.md"]
    result = run_python(*command, *options, interpreted=True)
    assert result.returncode == 0, result.stdout + result.stderr
    row, narrow = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert narrow["case"]["dtype"] == "bf16" and narrow["code"]["matrix"]["HGMMA.BF16"] > 0
    assert "cnn3 MNIST 2" in row["case"]["where"] and row["faults"] == []
    assert row["code"]["matrix"]["HGMMA.TF32"] > 0
    # 14 x 14 outputs of 64 filters over 3 x 3 x 32 inputs, two convolutions, 2 operations a multiply-add
    assert row["flops"] == 1024 * 14 * 14 * 64 * 3 * 3 * 32 * 2 * 2
    assert "conv_jvp" in (tmp_path / "report.md").read_text()
    # the second run compiles nothing: a wrong figure in the cache shows through, and fails the command
    for file in (tmp_path / "cache").glob("*.json"):
        file.write_text(json.dumps({**row["code"], "spilled": 4096}))
    result = run_python(*command, *options, interpreted=True)
    assert result.returncode == 1 and "spills 4096 bytes" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (MachineCode(registers=255, spilled=MAX_SPILL, shared=100_000, matrix={"HMMA": 1}), None),
        (MachineCode(spilled=MAX_SPILL + 1), "spills"),
        (MachineCode(shared=164 * 1024), "shared memory"),
        (MachineCode(dots={"tf32": 2}), "matrix instructions"),
        (MachineCode(dots={"tf32x3": 2}), "matrix instructions"),
        (MachineCode(dots={"ieee": 2}), None),
        (MachineCode(error="refused"), "refused"),
        (MachineCode(spilled=8, loop_spills=2), "2 instructions in loops"),
        (MachineCode(matrix={"HMMA": 1}, dots={"tf32": 1}, units={"HMMA 16x64 f32": 1}), None),
        (MachineCode(matrix={"HMMA": 1}, dots={"tf32": 1}, units={"FMA 16x64 f32": 1}), "16 rows"),
    ],
)
def test_faults(code, fault):
    found = faults("sm_80", code)
    assert found == () if fault is None else len(found) == 1 and fault in found[0]


TTGIR = """
#blocked = #ttg.blocked<{sizePerThread = [1, 4], warpsPerCTA = [4, 1]}>
#mma = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [4, 1], instrShape = [16, 64, 8]}>
#mma1 = #ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 4], instrShape = [16, 8]}>
#mma2 = #ttg.amd_mfma<{version = 3, warpsPerCTA = [4, 1], instrShape = [32, 32, 4], isTransposed = true}>
  %a = ttng.warp_group_dot %x, %y, %z {inputPrecision = 0 : i32} : !ttg.memdesc<256x32xf32, #shared, #smem, \
mutable> * !ttg.memdesc<32x64xf32, #shared1, #smem> -> tensor<256x64xf32, #mma> loc(#loc1)
  %b:3 = ttng.warp_group_dot_wait %a, %x, %y {pendings = 1 : i32} : tensor<256x64xf32, #mma>
  ttng.tc_gen5_mma %x, %y, %c, %f, %t : !ttg.memdesc<128x32xbf16, #s, #smem, mutable, 2x128x32>, \
!ttg.memdesc<32x64xbf16, #s, #smem>, !ttg.memdesc<128x64xf32, #tmem, #ttng.tensor_memory, mutable>
  %d = tt.dot %x, %y, %z, inputPrecision = tf32 : tensor<32x8xf32, #ttg.dot_op<{opIdx = 0, parent = #mma1}>> \
* tensor<8x64xf32, #ttg.dot_op<{opIdx = 1, parent = #mma1}>> -> tensor<32x64xf32, #mma1> loc(#loc2)
  %d = tt.dot %x, %y, %d, inputPrecision = tf32 : tensor<32x8xf32, #ttg.dot_op<{opIdx = 0, parent = #mma1}>> \
* tensor<8x64xf32, #ttg.dot_op<{opIdx = 1, parent = #mma1}>> -> tensor<32x64xf32, #mma1> loc(#loc2)
  %e = tt.dot %x, %y, %z : tensor<64x16xf32, #ttg.dot_op<{opIdx = 0, parent = #mma2}>> \
* tensor<16x16xf32, #ttg.dot_op<{opIdx = 1, parent = #mma2}>> -> tensor<64x16xf32, #mma2> loc(#loc2)
  %g = tt.dot %x, %y, %z : tensor<16x16xf32, #ttg.dot_op<{opIdx = 0, parent = #blocked}>> \
* tensor<16x16xf32, #ttg.dot_op<{opIdx = 1, parent = #blocked}>> -> tensor<16x16xf32, #blocked> loc(#loc2)
""".replace("\\\n", "")


def test_which_unit_computes_a_dot():
    units = count_units(TTGIR)
    assert units == {
        "HGMMA 256x64 f32": 1,
        "UTCHMMA 128x64 bf16": 1,
        "HMMA 32x64 f32": 2,
        "MFMA 64x16 f32": 1,
        "FMA 16x16 f32": 1,
    }


def test_a_dot_off_the_newest_unit_fails_where_its_shape_allows_that():
    older = Product("HMMA", 64, 32, "f32")
    assert off_newest("sm_90", {"HMMA 64x32 f32": 1}, is_tf32=True) == [(older, True)]
    assert off_newest("sm_90", {"HMMA 32x64 f32": 1}, is_tf32=True) == [
        (older._replace(rows=32, columns=64), False)
    ]
    assert off_newest("sm_90", {"HMMA 64x32 f32": 1}, is_tf32=False) == []
    assert off_newest("sm_100", {"HGMMA 64x32 bf16": 1}, is_tf32=False)[0][1]
    assert off_newest("sm_80", {"HMMA 16x16 f32": 1}, is_tf32=True) == []


def test_reads_amd_assembly():
    code = inspect_amdgcn(AMDGCN, shared=16384, dots={"tf32": 1}, seconds=0.0)
    assert code == MachineCode(132, 96, 16384, {"mfma_f32_32x32x4_xf32": 2}, {"tf32": 1})


def test_counts_dots_by_precision():
    assert count_dots(TTIR) == {"tf32": 1, "ieee": 1}


def test_occupancy_by_hand():
    a100, mi300 = gpu_of_arch("sm_80"), gpu_of_arch("gfx942")
    assert occupancy(a100, Resources(32, 0, 4)) == 1.0
    # 128 x 32 registers a warp: 16 of 64 warps
    assert occupancy(a100, Resources(128, 0, 4)) == 16 / 64
    # 48 KiB and the system's 1 KiB: 3 programs in 164 KiB
    assert occupancy(a100, Resources(32, 48 * 1024, 4)) == 12 / 64
    assert occupancy(a100, Resources(32, 164 * 1024, 4)) == 0.0
    # 512 registers a lane hold 4 waves of 128 on each of 4 SIMDs
    assert occupancy(mi300, Resources(128, 0, 4)) == 16 / 32
    assert occupancy(mi300, Resources(16, 64 * 1024, 4)) == 4 / 32


def test_roofline_is_the_slower_of_memory_and_arithmetic():
    a100 = gpu_of_arch("sm_80")
    assert roofline(a100, 156e12, 0).seconds == pytest.approx(1)
    assert roofline(a100, 156e12, 0, "tf32x3").seconds == pytest.approx(3)
    assert roofline(a100, 19.5e12, 0, "ieee").seconds == pytest.approx(1)
    roof = roofline(a100, 1e12, 2.039e12)
    assert roof.bound == "memory" and roof.seconds == pytest.approx(1)


def test_gpus_by_name_and_target():
    assert find_gpu("NVIDIA H200").name == "H200"
    assert find_gpu("NVIDIA A100-SXM4-80GB").name == "A100"
    assert find_gpu("Some other card") is None
    assert {gpu.target for gpu in GPUS} == set(TARGETS)
    with pytest.raises(ValueError, match="sm_12"):
        gpu_of_arch("sm_12")


def test_shared_limits_agree_with_the_kernels():
    for name, target in TARGETS.items():
        assert target.shared_memory == gpu_of_arch(name).shared_per_block


def test_cases_join_shapes_that_networks_share():
    found = cases(("cnn3", "cnn5"), targets=("sm_90",), ops=("conv_jvp", "cg_update"))
    by_name = {name: case for case in found for name in case.where}
    assert by_name["cnn3 MNIST 1"] is by_name["cnn5 MNIST 1"]
    assert by_name["cnn3 MNIST 2"] is by_name["cnn5 MNIST 3"]
    assert len([case for case in found if case.op == "conv_jvp"]) == 2 * (3 + 5 - 2)
    assert sum(len(case.where) for case in found if case.op == "conv_jvp") == 2 * (3 + 5)
    # the paper's numbers of parameters, for 32 x 32 x 3 images
    assert {68_106, 161_450} < {case.n_images for case in found if case.op == "cg_update"}


def test_cases_of_a_network_that_is_not_aligned_and_in_float64():
    odd = [case for case in cases(("odd",), ("sm_90",), ("conv_jvp",)) if case.layer.filters % 4]
    assert len(odd) == 6  # three layers, two shapes of images
    others = other_cases(("sm_90",))
    wide = [case for case in others if case.dtype == "fp64"]
    assert {case.op for case in wide} == set(USES)
    types = {kind for case in wide for launch in case.launches() for kind in launch.signature.values()}
    assert "*fp64" in types and "*fp32" not in types


def test_versions_of_triton_stand_in_one_table():
    rows = [row(0), row(96)]
    (line,) = version_lines(rows, {"sm_90": 5})
    assert line[1:9] == ["sm_90", "5", "2", "1", "96", "0", "0", "0"]
    other = json.dumps({"triton": "3.5.0", "versions": [["3.5.0", "sm_90", 7, 3, 0, 0, 0, 2, 1, "-"]]})
    (read,) = read_versions(other)
    assert read == ["3.5.0", "sm_90", "7", "3", "0", "0", "0", "2", "1", "-"]
    text = report_markdown(rows, sections(rows, {"sm_90": 5}, [read]))
    assert "| 3.5.0 | sm_90 | 7 | 3 | 0 | 0 | 0 | 2 | 1 | - |" in text
    with pytest.raises(ValueError, match="not a report"):
        read_versions("{}")


def test_a_product_is_added_up_where_all_its_launches_are_there():
    found = cases(("cnn3", "cnn5"), ("sm_90",), ("conv_jvp", "conv_vjp_input", "conv_vjp_weight"), ("MNIST",))
    code = MachineCode(64, 0, 1024, {"HGMMA.TF32": 4}, {"tf32": 1})
    rows = [_row(case, launch, code) for case in found for launch in case.launches()]
    assert [line[:2] for line in product_lines(rows)] == [["sm_90", "cnn3 MNIST"], ["sm_90", "cnn5 MNIST"]]
    only_cnn5 = next(i for i, row in enumerate(rows) if row.case.where == ("cnn5 MNIST 2",))
    assert [line[1] for line in product_lines(rows[:only_cnn5] + rows[only_cnn5 + 1 :])] == ["cnn3 MNIST"]
    assert product_lines(rows[1:]) == []  # a launch of both networks' first layer


def test_dots_by_unit():
    fast, slow = row(0), row(0)
    fast = replace(fast, code=replace(fast.code, units={"HGMMA 64x64 f32": 3}))
    slow = replace(slow, code=replace(slow.code, units={"HMMA 32x64 f32": 3, "HGMMA 64x64 f32": 3}))
    kernel = fast.kernel
    assert dot_lines([fast, slow, fast]) == [["sm_90", "tf32x3", "HGMMA", "2", f"1 HMMA 32x64 in {kernel}"]]


def test_what_is_not_cached_may_be_left_out(tmp_path):
    selected = cases(("cnn3",), ("sm_90",), ("conv_value",), ("MNIST",))
    assert compile_cases(selected, cache=tmp_path, only_cached=True) == []


def row(spilled):
    (case,) = cases(("cnn3",), ("sm_90",), ("conv_value",), ("MNIST",))[:1]
    return _row(case, case.launches()[0], MachineCode(64, spilled, 1024, {"HGMMA.TF32": 4}, {"tf32x3": 1}))


@pytest.mark.parametrize("what", ["networks", "targets", "ops"])
def test_cases_name_what_is_unknown(what):
    with pytest.raises(ValueError, match=f"{what[:-1]} must be one of .*; got 'cnn4'"):
        cases(**{what: ("cnn4",)})


def test_quick_cases_are_few_and_cover_every_target():
    sample = quick_cases()
    assert len(sample) <= 20 and {case.target for case in sample} == set(TARGETS)


def test_key_depends_on_what_is_compiled():
    (case,) = cases(("cnn3",), ("sm_90",), ("conv_jvp",), ("MNIST",))[1:2]
    (launch,) = case.launches()
    others = [
        replace(launch, num_warps=launch.num_warps * 2),
        replace(launch, constexprs={**launch.constexprs, "BLOCK_K": 128}),
        replace(launch, options={"enable_fp_fusion": False}),
    ]
    keys = {_key(launch, "sm_90"), _key(launch, "sm_80"), *(_key(other, "sm_90") for other in others)}
    assert len(keys) == 5
    assert _key(replace(launch, grid=(1,), flops=0), "sm_90") in keys


def test_source_hash_sees_callees_and_no_comments(tmp_path):
    text = """
import triton
import triton.language as tl
@triton.jit
def helper(x):
    return x + 1
@triton.jit
def kernel(p):
    \"\"\"Text.\"\"\"
    tl.store(p, helper(2))  # a comment
"""

    def hash_of(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return source_hash(module.kernel.fn)

    first = hash_of("a", text)
    assert hash_of("b", text.replace("comment", "remark").replace("Text", "More text")) == first
    assert hash_of("c", text.replace("x + 1", "x + 2")) != first
    assert hash_of("d", text.replace("helper(2)", "helper(3)")) != first


def test_environment_is_restored(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with compiler_environment():
        assert "TRITON_INTERPRET" not in os.environ and os.path.isdir(os.environ["TRITON_CACHE_DIR"])
    assert os.environ["TRITON_INTERPRET"] == "1" and "TRITON_CACHE_DIR" not in os.environ
