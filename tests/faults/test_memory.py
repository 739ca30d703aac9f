"""Memory that runs out: halved batches and the same result, the R-operator, limits that "auto" honours."""

import resource
import subprocess
import sys
import textwrap

import dense
import numpy as np
import pytest
import torch
from networks import BY_NAME, each_form

from hfcnn import GaussNewton, Objective
from hfcnn.layers import ConvLayer
from hfcnn.memory import control_group_free, free_bytes, is_allocation_failure, memory_budget
from hfcnn.objective import outputs

CASE = BY_NAME["two-layers"]
N_IMAGES = 13
C = 3.0

FAILURES = [
    MemoryError("std::bad_alloc"),
    np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype("float64")),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried ..."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(3)
    theta, *_ = CASE.draw()
    images = torch.randn(N_IMAGES, *CASE.network.input_shape, generator=generator, dtype=torch.float64)
    v = torch.randn(len(theta), generator=generator, dtype=torch.float64)
    return theta, images, torch.arange(N_IMAGES) % 3, v


@pytest.fixture
def fail(monkeypatch):
    """Let an operation of the convolutional layers fail for more than some images; tell what it was asked."""

    def install(operation, most, error=FAILURES[2]):
        original, asked = getattr(ConvLayer, operation), []

        def limited(self, z, *arguments, **keywords):
            asked.append(len(z))
            if len(z) > most:
                raise error
            return original(self, z, *arguments, **keywords)

        monkeypatch.setattr(ConvLayer, operation, limited)
        return asked

    return install


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: str(error)[:25])
def test_what_says_that_memory_ran_out(error):
    assert is_allocation_failure(error)


@pytest.mark.parametrize("error", [RuntimeError("shape '[2]' is invalid"), ValueError("out of memory")])
def test_other_errors_are_no_failed_allocation(error, problem, fail):
    assert not is_allocation_failure(error)
    theta, images, labels, _ = problem
    fail("forward", 0, error)
    with pytest.raises(type(error), match="invalid|out of memory"):
        Objective(CASE.network, images, labels, C=C).value_and_gradient(theta)


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: str(error)[:25])
@pytest.mark.parametrize("operation", ["value", "forward", "vjp"])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_objective_halves_the_batch(operation, most, error, problem, fail):
    theta, images, labels, _ = problem
    weight = torch.linspace(0.5, 2, N_IMAGES, dtype=torch.float64)
    objective = Objective(CASE.network, images, labels, C=C, sample_weight=weight)
    value, gradient = objective.value(theta), objective.value_and_gradient(theta)[1]
    before = objective.passes.forward, objective.passes.backward
    asked = fail(operation, most, error)
    dense.assert_close(objective.value(theta), value)
    dense.assert_close(objective.value_and_gradient(theta)[1], gradient)
    assert min(asked) <= most < max(asked), "nothing was halved"
    passed = objective.passes.forward - before[0], objective.passes.backward - before[1]
    assert passed == (2 * N_IMAGES, N_IMAGES), "images of failed attempts do not count"
    del asked[:]
    objective.evaluate(theta, bound=1e300)
    assert max(asked, default=0) <= most, "the size that was found is kept"


@pytest.mark.parametrize("most", [1, 4])
def test_predictions_halve_the_batch(most, problem, fail):
    theta, images, _, _ = problem
    expected = outputs(CASE.network, theta, images)
    asked = fail("value", most)
    dense.assert_close(outputs(CASE.network, theta, images), expected)
    assert max(asked) > most


@each_form
@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("operation", ["jvp", "vjp", "rows_jvp", "rows_vjp"])
def test_products_halve_the_batch(operation, most, form, problem, fail):
    theta, images, _, v = problem
    expected = GaussNewton(CASE.network, theta, images, "cross_entropy", C, form=form) @ v
    matrix = GaussNewton(CASE.network, theta, images, "cross_entropy", C, form=form)
    asked = fail(operation, most)
    for _ in range(2):
        dense.assert_close(matrix @ v, expected)
    if operation.startswith("rows") == (form == "jacobian"):
        assert max(asked) > most
        assert not matrix.is_kept, "what is kept of a batch that was halved is let go"


@each_form
@pytest.mark.parametrize("operation", ["forward", "masked_rows", "input_rows"])
def test_set_up_goes_on_with_less(operation, form, problem, fail):
    theta, images, _, v = problem
    expected = GaussNewton(CASE.network, theta, images, "cross_entropy", C, form=form) @ v
    fail(operation, 4)
    matrix = GaussNewton(CASE.network, theta, images, "cross_entropy", C, form=form)
    assert matrix.form == "rop", "the stored Jacobian falls back to the R-operator"
    dense.assert_close(matrix @ v, expected)


def test_stored_jacobian_that_fits_in_part_leaves_nothing_behind(problem, monkeypatch):
    """It fails in its third batch: all of it gives way."""
    theta, images, _, v = problem
    expected = GaussNewton(CASE.network, theta, images, C=C) @ v
    original, built = ConvLayer.patches, []

    def patches(self, z):
        built.append(len(z))
        if len(built) == 3:
            raise MemoryError
        return original(self, z)

    case = BY_NAME["few-parameters"]
    theta, images, labels = case.draw()
    v = torch.ones_like(theta)
    expected = GaussNewton(case.network, theta, images, C=C, form="rop") @ v
    monkeypatch.setattr(ConvLayer, "patches", patches)
    matrix = GaussNewton(case.network, theta, images, C=C, form="jacobian", batch_size=1)
    assert len(built) == 3
    assert matrix.form == "rop" and matrix.is_kept
    dense.assert_close(matrix @ v, expected)


def test_below_one_image_the_error_says_what_was_needed(problem, fail):
    theta, images, labels, v = problem
    fail("forward", 0)
    for compute in (
        lambda: Objective(CASE.network, images, labels).value_and_gradient(theta),
        lambda: GaussNewton(CASE.network, theta, images) @ v,
    ):
        with pytest.raises(
            MemoryError, match=r"a single image.* take up to [\d.]+ kB, and [\d.]+ [kMG]B are free"
        ):
            compute()


#: Fits under a limit of the address space some MB above what is in use, and prints theta's largest difference
#: to a fit without.
LIMITED = """
    import resource, sys
    import numpy as np, torch
    torch.set_num_threads(1)
    from hfcnn import Conv, Network, NewtonCNNClassifier
    from hfcnn.layers import ConvLayer
    from sklearn.datasets import load_digits
    X, y = load_digits(return_X_y=True)
    X, y = np.kron(X[:600].reshape(-1, 8, 8) / 16, np.ones((3, 3))), y[:600]

    def fit(batch_size):
        settings = {"C": 1.0, "max_iter": 2, "random_state": 0, "gauss_newton": sys.argv[1], "memory": 10**9}
        classifier = NewtonCNNClassifier([Conv(16, 5, pool=2), Conv(8, 3)], batch_size=batch_size, **settings)
        return classifier.fit(X, y).theta_

    free = fit(50)
    tried, original = [], ConvLayer.forward
    def forward(self, z, *rest):
        tried.append(len(z))
        return original(self, z, *rest)
    ConvLayer.forward = forward
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 10**6,) * 2)
    limited = fit(600)
    print(abs(limited - free).max() / abs(free).max(), max(tried), min(tried))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("form", ["rop", "jacobian"])
def test_real_limit_of_the_address_space(form):
    """A batch of all 600 images takes some 100 MB; there are 60."""
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), form, "60"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    difference, largest, smallest = map(float, result.stdout.split())
    assert difference < 1e-9
    assert largest == 600 and smallest < 600, "nothing was halved"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_auto_honours_the_limit_of_the_address_space():
    program = """
        import resource, torch
        from hfcnn.memory import memory_budget
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 10**6,) * 2)
        print(memory_budget("auto", torch.device("cpu")))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 5e6 < int(result.stdout) <= 25e6


def control_groups(root, text, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)
    for path, content in files.items():
        target = root / "sys/fs/cgroup" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    return control_group_free(root)


STAT = "anon 1\ninactive_file 300\n"


@pytest.mark.parametrize(
    ("text", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1000\n", "memory.current": "600\n", "memory.stat": STAT}, 700),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "600\n"}, None),
        ("0::/\n", {}, None),
        ("", {}, None),
        (
            "0::/user/job\n",  # the tightest of the groups around it counts
            {
                **{"user/job/memory.max": "max", "user/job/memory.current": "100"},
                **{"user/memory.max": "900", "user/memory.current": "800"},
            },
            100,
        ),
        (
            "5:cpu:/x\n4:memory:/docker/abc\n",  # version 1 in a container: the mount is the group
            {
                **{"memory/memory.limit_in_bytes": "5000", "memory/memory.usage_in_bytes": "1500"},
                "memory/memory.stat": "total_inactive_file 500\n",
            },
            4000,
        ),
        (
            "4:cpu,memory:/job\n",
            {
                **{"memory/job/memory.limit_in_bytes": "5000", "memory/job/memory.usage_in_bytes": "1500"},
                **{
                    "memory/memory.limit_in_bytes": "9223372036854771712",
                    "memory/memory.usage_in_bytes": "1",
                },
            },
            3500,
        ),
    ],
    ids=["v2", "v2 without limit", "v2 root", "none", "v2 nested", "v1 container", "v1"],
)
def test_limits_of_control_groups(text, files, expected, tmp_path):
    assert control_groups(tmp_path, text, files) == expected


def test_auto_honours_a_control_group(monkeypatch):
    monkeypatch.setattr("hfcnn.memory.control_group_free", lambda: 80_000_000)
    assert memory_budget("auto", torch.device("cpu")) == 20_000_000
    assert free_bytes(torch.device("cpu")) == 80_000_000
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
