"""What the acceptance compiles beforehand is what a run finds in Triton's cache."""

import os
import subprocess
import sys

import pytest

# A driver that stands in for a GPU's: it takes launches and does nothing.
SCRIPT = """
import sys
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget


class Driver:
    class utils:
        @staticmethod
        def get_device_properties(device):
            return {"max_shared_mem": 232_448, "warpSize": 32}

        @staticmethod
        def load_binary(name, binary, shared, device):
            return 0, 0, 64, 0, 1024

    launcher_cls = staticmethod(lambda source, metadata: lambda *arguments: None)

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


triton.runtime.driver.set_active(Driver())
from hfcnn.kernels.launch import Target
from hfcnn.kernels.tools import compile_report
from hfcnn.kernels.tools.report_cases import quick_cases

# fewer multiprocessors than the table of targets says, as in the card with PCIe
target = Target("sm_90", "cuda", 90, 232_448, 32, 114)
compile_report.gpu_target = lambda: target

TYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "u8": torch.uint8}
cache = Path(sys.argv[1])
jobs = [(case, index) for case in quick_cases(("sm_90",)) for index in range(len(case.launches()))]
for case, index in jobs[:6]:
    code = compile_report.compile_in_place(case, index)
    assert not code.error, code.error
    compiled = len(list(cache.rglob("*.cubin")))
    launch = case.launches(target)[index]
    launch.kernel.device_caches.clear()
    kinds = launch.signature.values()
    tensors = [torch.empty(16, dtype=TYPES[kind[1:]]) if kind[0] == "*" else 7 for kind in kinds]
    launch.run(*tensors)
    print(launch.kernel.__name__, len(list(cache.rglob("*.cubin"))) - compiled)
"""


@pytest.mark.slow
def test_a_run_compiles_nothing_that_was_compiled_beforehand(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    found = [line.split() for line in result.stdout.splitlines()]
    assert len({name for name, _ in found}) > 2, result.stderr
    assert all(more == "0" for _, more in found), found
