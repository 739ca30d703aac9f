"""Loops of machine code, their trip counts, and the instructions that a program issues."""

import pytest
from hfcnn.kernels.tools.loops import (
    Loop,
    amd_spills_in_loops,
    class_of,
    hot_loop,
    issued,
    loop_tree,
    parse_machine_code,
    spills_in_loops,
)
from hfcnn.kernels.tools.roofline import gpu_of_arch
from hfcnn.kernels.tools.trip_counts import Nest, trip_counts

#: An outer loop of 3 instructions around an inner one of 5, 2 before, 2 after; then a turn that waits.
SASS = """
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   MOV R1, 0x1 ;
.L_x_1:
        /*0020*/                   IADD3 R1, R1, 0x1, RZ ;
.L_x_0:
        /*0030*/                   LDGSTS.E.BYPASS.128 [R3], [R4.64] ;
        /*0040*/              @!P1 LDG.E.U8 R5, [R6.64] ;
        /*0050*/                   LDG.E R5, [R6.64] ;
        /*0060*/                   HMMA.1688.F32.TF32 R8, R4, R6, R8 ;
        /*0070*/               @P0 BRA `(.L_x_0) ;
        /*0080*/                   FADD R1, R2, R3 ;
        /*0090*/              @!P2 BRA `(.L_x_1) ;
        /*00a0*/               @P3 EXIT ;
        /*00b0*/                   EXIT ;
.L_x_2:
        /*00c0*/                   SYNCS R1 ;
        /*00d0*/                   BRA `(.L_x_0) ;
.L_x_3:
        /*00e0*/                   BRA `(.L_x_3) ;
"""
TTIR = """
module {
  tt.func public @kernel(%z: !tt.ptr<f32> loc("z"), %n_images: i32 loc("n")) {
    %c0_i32 = arith.constant 0 : i32 loc(#loc1)
    %c1_i32 = arith.constant 1 : i32 loc(#loc1)
    %c4_i32 = arith.constant 4 : i32 loc(#loc1)
    %many = arith.constant dense<4> : tensor<64xi32> loc(#loc1)
    %0 = tt.get_program_id x : i32 loc(#loc1)
    %first = arith.muli %0, %c4_i32 : i32 loc(#loc1)
    %last = arith.addi %first, %n_images : i32 loc(#loc1)
    %out:2 = scf.for %window = %c0_i32 to %c4_i32 step %c1_i32 iter_args(%a = %b) -> (tensor<4xf32>)  : i32 {
      %acc = scf.for %k = %first to %last step %c4_i32 iter_args(%a = %b) -> (tensor<4xf32>)  : i32 {
        %d = tt.dot %x, %y, %a, inputPrecision = tf32 : tensor<16x8xf32> * tensor<8x8xf32>
        scf.yield %d : tensor<64x64xf32> loc(#loc261)
      } loc(#loc229)
      scf.if %m {
        %e = arith.constant 1 : i32 loc(#loc1)
      } loc(#loc229)
      scf.yield %acc : tensor<64x64xf32> loc(#loc261)
    } loc(#loc229)
    tt.return loc(#loc105)
  } loc(#loc)
} loc(#loc)
"""


def test_classes_of_instructions():
    names = (
        "HGMMA.64x64x8.F32.TF32",
        "UTCHMMA",
        "LDGSTS.E.BYPASS.128",
        "STS.128",
        "UIMAD.WIDE",
        "FFMA",
        "BAR.SYNC",
    )
    assert [class_of(name) for name in names] == [
        *("matrix", "matrix", "memory", "memory", "integer", "other", "other")
    ]


def test_loops_of_machine_code():
    code = parse_machine_code(SASS)
    assert len(code) == 12  # neither the turn that waits nor the padding
    assert loop_tree(code) == (Loop(2, 9, (Loop(3, 7),)),)
    hot = hot_loop(code)
    assert hot.step == {"matrix": 1, "memory": 3, "integer": 0, "other": 1}
    assert hot.loads == {"128": 1, "32": 1, "8": 1}


def test_spills_count_where_a_loop_repeats_them():
    spilling = SASS.replace("LDG.E R5, [R6.64]", "LDL R5, [R1]").replace("MOV R1, 0x1", "STL [R1], R2")
    assert spills_in_loops(parse_machine_code(SASS)) == 0
    assert spills_in_loops(parse_machine_code(spilling)) == 1
    amd = """
        scratch_store_dword off, v1, off
    .LBB0_1:
        scratch_load_dword v1, off, off
        s_cbranch_scc1 .LBB0_2
        s_cbranch_scc0 .LBB0_1
        scratch_load_dword v1, off, off
    .LBB0_2:
    """
    assert amd_spills_in_loops(amd.replace("\n    ", "\n")) == 1


def test_trip_counts_follow_constants_arguments_and_the_first_program():
    kernel = trip_counts(TTIR, {"n_images": 10})
    (outer,) = kernel.inner
    assert outer == Nest(4, [], [Nest(3, [16 * 8 * 8])])
    (outer,) = trip_counts(TTIR, {}).inner
    assert outer.inner[0].trips is None


def test_instructions_that_a_program_issues():
    code = parse_machine_code(SASS)
    # 12 without loops: 2 before, 2 after, and 4 turns of 3 around 3 turns of 5
    assert issued(code, trip_counts(TTIR, {"n_images": 10}), 1) == 2 + 2 + 4 * (3 + 3 * 5)
    assert issued(code, trip_counts(TTIR, {}), 1) is None
    # four warps share a dot of one instruction for each: a turn of the loop does four steps
    assert issued(code, trip_counts(TTIR, {"n_images": 160}), 4) == 2 + 2 + 4 * (3 + 10 * 5)


def test_a_nest_without_a_loop_is_unrolled():
    code = parse_machine_code(SASS)
    inner = trip_counts(TTIR, {"n_images": 10}).inner
    kernel = Nest(1, [], [Nest(2), *inner])
    assert issued(code, kernel, 1) == issued(code, Nest(1, [], inner), 1)
    assert (
        issued(code, Nest(1, [], [Nest(4, [], [Nest(3)])]), 1) is None
    )  # no dot where there are matrix units


@pytest.mark.parametrize(("target", "peak"), [("sm_80", 1024), ("sm_90", 2048)])
def test_clocks_are_those_that_the_published_peaks_imply(target, peak):
    gpu = gpu_of_arch(target)
    assert gpu.flops["bf16"] == pytest.approx(2 * peak * gpu.units * gpu.clock, rel=0.01)
