import pytest
import torch
from networks import BY_NAME, each_form, each_odd_case

from hfcnn import GaussNewton, Linearization, Network, StoredJacobian
from hfcnn.cost import (
    choose_batch_size,
    choose_form,
    fit_bytes,
    gradient_cost,
    jacobian_cost,
    linearization_bytes,
    product_cost,
    rows_at_once,
    stored_jacobian_bytes,
    value_cost,
)
from hfcnn.layers import ConvLayer
from hfcnn.memory import memory_budget

CPU = torch.device("cpu")
MNIST = Network.preset("cnn3", (28, 28, 1), 10)
#: Multiply-adds of cnn3's layers on 28 x 28 x 1: positions x filters x inputs of a filter.
CONV1, CONV2, CONV3, OUTPUT = 28 * 28 * 32 * 25, 14 * 14 * 64 * 288, 7 * 7 * 64 * 576, 10 * 576
ALL = CONV1 + CONV2 + CONV3 + OUTPUT
#: What the stored Jacobian keeps K rows of: the first layer's parameters and the others' pooled outputs.
ROWS = 32 * (25 + 1) + 7 * 7 * 64 + 3 * 3 * 64


@pytest.mark.parametrize(
    ("cost", "by_hand", "megaflops"),
    [
        (value_cost(MNIST), 2 * ALL, 12.1),
        # the first layer's input needs no gradient
        (gradient_cost(MNIST), 2 * (3 * ALL - CONV1), 35.1),
        # nor has it a tangent
        (product_cost(MNIST, "rop"), 2 * (4 * ALL - 2 * CONV1), 45.9),
        # nor a convolution: its block of the Jacobian is multiplied out
        (product_cost(MNIST, "jacobian"), 2 * (2 * (ALL - CONV1) + 2 * 10 * ROWS), 21.9),
        (jacobian_cost(MNIST), 2 * (ALL + 10 * (CONV1 + CONV2 + CONV3)), 133.0),
    ],
    ids=["value", "gradient", "rop product", "jacobian product", "jacobian set-up"],
)
def test_operations_of_cnn3(cost, by_hand, megaflops):
    assert cost.operations == by_hand
    assert cost.operations / 1e6 == pytest.approx(megaflops, abs=0.05)


def kept_bytes(thing):
    """Bytes of every tensor that a linearisation holds on to, theta aside, each storage once."""
    storages, seen = {}, set()

    def visit(x):
        if id(x) in seen:
            return
        seen.add(id(x))
        if isinstance(x, torch.Tensor):
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        elif isinstance(x, list | tuple):
            for part in x:
                visit(part)
        elif type(x).__module__.startswith("hfcnn") and not isinstance(x, Network):
            for name, part in vars(x).items():
                if name != "parameters":
                    visit(part)

    visit(thing)
    return sum(storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@each_odd_case
def test_bytes_are_those_of_the_tensors_kept(case, dtype, generator):
    theta, images, _ = case.draw()
    v = torch.randn(theta.shape, generator=generator).to(dtype)
    q = torch.randn(case.n_images, case.network.n_outputs, generator=generator).to(dtype)
    for kind, count in ((Linearization, linearization_bytes), (StoredJacobian, stored_jacobian_bytes)):
        kept = kind(case.network, theta.to(dtype), images.to(dtype))
        kept.jvp(v)  # what products cache counts, too
        kept.vjp(q)
        assert kept_bytes(kept) == case.n_images * count(case.network, dtype.itemsize)


def test_memory_budget():
    assert memory_budget(12345, CPU) == 12345
    assert memory_budget(0, CPU) == 0
    assert 2**20 < memory_budget("auto", CPU) < 2**50
    with pytest.raises(ValueError, match="memory must be a number of bytes or \"auto\"; got 'all'"):
        memory_budget("all", CPU)
    with pytest.raises(ValueError, match="memory must not be negative; got -5"):
        memory_budget(-5, CPU)


@each_form
def test_fit_grows_with_the_subset_only_up_to_the_budget(form):
    few, many, more = (fit_bytes(MNIST, n, form=form, memory=2**26) for n in (50, 800, 3200))
    assert few < many == more
    assert fit_bytes(MNIST, 3200, form=form, memory=2**30) > more + 2**28


def test_batch_size_shrinks_with_the_network():
    big, small = (Network.preset("cnn5", (size, size, 3), 10) for size in (96, 32))
    assert 1 <= choose_batch_size(big, 4, CPU) < choose_batch_size(small, 4, CPU)
    assert choose_batch_size(small, 8, CPU) <= choose_batch_size(small, 4, CPU)
    huge = Network.preset("cnn3", (2048, 2048, 1), 10)
    assert choose_batch_size(huge, 8, CPU) == 1


def test_form_is_rop_where_the_rows_do_not_fit():
    n_images = 100
    rows = n_images * stored_jacobian_bytes(MNIST)
    assert choose_form(MNIST, n_images, n_products=10**6, memory=rows - 1) == "rop"
    assert choose_form(MNIST, n_images, n_products=10**6, memory=rows) == "jacobian"


def test_form_is_rop_for_a_few_products():
    """The set-up of the rows is worth it only if many products share it."""
    choices = [choose_form(MNIST, 100, n_products=k, memory=2**40) for k in (1, 2, 100)]
    assert choices == ["rop", "rop", "jacobian"]


@each_form
def test_asked_form_is_used(form):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    assert GaussNewton(case.network, theta, images, form=form).form == form


def test_rows_at_once_make_one_large_temporary_on_a_gpu():
    """All K rows of a full batch would be K large temporaries: 5 GB for cnn3."""
    gpu, largest = torch.device("cuda"), 32 * 28 * 28 * 4
    for n_images in (1, 100, 2000, choose_batch_size(MNIST, 4, gpu)):
        n_rows = rows_at_once(MNIST, n_images, 4, gpu)
        assert 1 <= n_rows <= 10
        assert n_rows == 1 or n_rows * n_images * largest <= 512 * 2**20
        assert n_rows == 10 or (n_rows + 1) * n_images * largest > 512 * 2**20, "the device is kept busy"
        assert rows_at_once(MNIST, n_images, 4, CPU) == 1


def test_stored_jacobian_carries_that_many_rows(monkeypatch):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    whole = StoredJacobian(case.network, theta, images).jvp(theta)
    seen, original = [], ConvLayer.input_rows

    def input_rows(self, rows, *rest):
        seen.append(rows.shape[1])
        return original(self, rows, *rest)

    monkeypatch.setattr(ConvLayer, "input_rows", input_rows)
    monkeypatch.setattr("hfcnn.stored_jacobian.rows_at_once", lambda *_: 2)
    assert torch.equal(StoredJacobian(case.network, theta, images).jvp(theta), whole)
    assert seen == [2, 1]


def test_fit_bytes_on_a_gpu_count_the_rows_at_once():
    small = fit_bytes(MNIST, 64, form="jacobian", memory=2**34, device="cuda")
    assert small > fit_bytes(MNIST, 64, form="jacobian", memory=2**34) + 9 * 2 * 64 * 32 * 28 * 28 * 4 / 2


def test_choose_form_weighs_bytes_by_the_device():
    """A GPU computes more while memory delivers a byte, so reading rows costs it more."""

    def first(device):
        return next(
            (
                k
                for k in range(1, 500)
                if choose_form(MNIST, 100, n_products=k, memory=2**40, device=device) == "jacobian"
            ),
            500,
        )

    assert first(CPU) == first(None) < first(torch.device("cuda"))
