"""Launches of presets and of the unaligned network that once spilled registers, compiled for real GPUs."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
from dataclasses import replace
from hfcnn.kernels.tools.compile_report import compile_one, faults
from hfcnn.kernels.tools.machine_code import compiler_environment
from hfcnn.kernels.tools.report_cases import cases, other_cases

tight = {
    ("sm_80", "conv_patch_gram", "cnn3 MNIST 1", "ieee", "fp32"),
    ("sm_100", "conv_cotangent_gram", "cnn5 MNIST 5", "tf32", "fp32"),
    ("sm_90", "conv_vjp_weight", "odd CIFAR10 1", "tf32", "fp32"),
}
# in a precision that is no default of the op, with as many images
asked = {
    ("sm_90", "conv_cotangent_gram", "cnn3 CIFAR10 2"): ("tf32x3", 2500),
    ("sm_100", "conv_patch_gram", "cnn3 CIFAR10 2"): ("ieee", 2500),
    ("sm_90", "conv_vjp_weight", "odd MNIST 1"): ("ieee", 1),
}
targets = ("sm_80", "sm_90", "sm_100")
with compiler_environment():
    for case in [*cases(targets=targets), *other_cases(targets)]:
        for where in case.where:
            if (case.target, case.op, where, case.precision, case.dtype) in tight:
                code = compile_one(case, 0)
                print(case.target, code.spilled, *faults(case.target, code))
    for case in cases(targets=targets):
        for where in case.where:
            if case.precision == "tf32" and (case.target, case.op, where) in asked:
                precision, n_images = asked[case.target, case.op, where]
                code = compile_one(replace(case, precision=precision, n_images=n_images), 0)
                print(case.target, code.spilled, *faults(case.target, code))
"""


@pytest.mark.slow
def test_no_launch_that_was_tight_spills():
    # in a process of its own: this one's Triton is the interpreter
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    expected = ["sm_100 0"] * 2 + ["sm_80 0"] + ["sm_90 0"] * 3
    assert sorted(result.stdout.splitlines()) == expected, result.stderr
