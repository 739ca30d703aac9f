import dense
import numpy as np
import pytest
import torch
from networks import BY_NAME, FORMS, PRESET_CASES, each_form, each_loss, each_odd_case
from scipy.sparse.linalg import cg, eigsh

from hfcnn import GaussNewton, Linearization
from hfcnn.cost import linearization_bytes, stored_jacobian_bytes

C, DAMPING = 3.0, 0.25


def identity(case):
    return torch.eye(case.network.n_parameters, dtype=torch.float64)


def direction(case, generator):
    return torch.randn(case.network.n_parameters, generator=generator, dtype=torch.float64)


@each_form
@each_loss
@each_odd_case
def test_equals_the_dense_sum(case, loss, form):
    theta, images, _ = case.draw()
    G = GaussNewton(case.network, theta, images, loss, C, DAMPING, form) @ identity(case)
    dense.assert_close(G, dense.ggn(case.network, theta, images, loss, C, DAMPING))


@each_form
@each_loss
@pytest.mark.parametrize("case", PRESET_CASES, ids=lambda case: case.name)
def test_preset_equals_the_dense_sum(case, loss, form, generator):
    theta, images, _ = case.draw()
    v = direction(case, generator)
    J, B = dense.ggn_factors(case.network, theta, images, loss)
    JtBJv = torch.einsum("ikn,ikj,ij->n", J, B, J @ v)
    G = GaussNewton(case.network, theta, images, loss, C, DAMPING, form)
    dense.assert_close(G @ v, JtBJv / len(images) + (1 / C + DAMPING) * v)


@each_form
@each_loss
@each_odd_case
def test_symmetric_and_positive_semidefinite(case, loss, form):
    theta, images, _ = case.draw()
    G = GaussNewton(case.network, theta, images, loss, form=form) @ identity(case)
    dense.assert_close(G, G.t().contiguous())
    eigenvalues = torch.linalg.eigvalsh(G)
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


@each_form
def test_without_c_and_damping_nothing_is_added(form):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    G = GaussNewton(case.network, theta, images, form=form) @ identity(case)
    dense.assert_close(G, dense.ggn(case.network, theta, images, "squared"))


@each_form
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_any_batch_size(form, batch_size, generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)
    product = GaussNewton(case.network, theta, images, form=form, batch_size=batch_size) @ v
    dense.assert_close(product, dense.ggn(case.network, theta, images, "squared") @ v)


@each_form
def test_parts_of_the_images_add_up_to_the_whole(form, generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)
    parts = [images[:1], images[1:]]
    total = sum(len(part) * (GaussNewton(case.network, theta, part, form=form) @ v) for part in parts)
    dense.assert_close(total / 3, GaussNewton(case.network, theta, images, form=form) @ v)


@pytest.mark.parametrize("kept", [0, 1, 2], ids="{} images kept".format)
def test_linearising_anew_gives_the_same_bits(kept, generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)
    memory = kept * linearization_bytes(case.network, 8)
    anew, whole = (
        GaussNewton(case.network, theta, images, "cross_entropy", C, form="rop", batch_size=1, memory=m)
        for m in (memory, 2**30)
    )
    assert torch.equal(anew @ v, whole @ v)
    assert torch.equal(anew @ v, anew @ v)


def test_memory_decides_what_is_linearised_once(monkeypatch, generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)
    seen = []

    class Counted(Linearization):
        def __init__(self, network, theta, images, *rest):
            super().__init__(network, theta, images, *rest)
            seen.append(len(images))

    monkeypatch.setattr("hfcnn.gauss_newton.Linearization", Counted)
    for memory, expected in ((2**30, [2, 1]), (0, [2, 1, 2, 1])):
        seen.clear()
        G = GaussNewton(case.network, theta, images, form="rop", batch_size=2, memory=memory)
        G @ v
        G @ v
        assert seen == expected


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_stored_jacobian_beyond_the_budget_is_the_r_operator(kept, generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)
    memory = kept * stored_jacobian_bytes(case.network, 8)
    part = GaussNewton(case.network, theta, images, form="jacobian", batch_size=1, memory=memory)
    whole = GaussNewton(case.network, theta, images, form="rop", batch_size=1)
    assert part.is_kept == (kept >= len(images))
    dense.assert_close(part @ v, whole @ v)


@each_form
@each_loss
def test_sample_weight(loss, form, generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)

    def product(images, weight=None, batch_size=2):
        matrix = GaussNewton(
            case.network, theta, images, loss, C, form=form, sample_weight=weight, batch_size=batch_size
        )
        return matrix @ v

    weight = torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64)
    dense.assert_close(
        product(images, weight), dense.ggn(case.network, theta, images, loss, C, weight=weight) @ v
    )
    assert torch.equal(product(images, torch.ones(3, dtype=torch.float64)), product(images))
    repeats = torch.tensor([2, 0, 3])
    dense.assert_close(product(images, repeats.double()), product(images.repeat_interleave(repeats, 0)))


@each_form
def test_matrices_and_arrays(form, generator):
    case = BY_NAME["hidden-dense"]
    theta, images, _ = case.draw()
    V = torch.randn(case.network.n_parameters, 3, generator=generator, dtype=torch.float64)
    G = GaussNewton(case.network, theta, images, form=form)
    columns = G @ V
    assert columns.shape == V.shape
    for j in range(3):
        assert torch.equal(columns[:, j], G @ V[:, j].contiguous())
    array = V.numpy()
    assert isinstance(G @ array, np.ndarray)
    np.testing.assert_array_equal(G @ array, columns.numpy())
    np.testing.assert_array_equal(G @ np.asfortranarray(array), columns.numpy())
    np.testing.assert_array_equal(G @ array[:, 0], columns[:, 0].numpy())
    assert G.shape == (case.network.n_parameters,) * 2
    assert G.dtype == torch.float64


def test_arrays_that_may_not_be_written_to():
    case = BY_NAME["hidden-dense"]
    theta, images, _ = case.draw()
    v = np.ones(case.network.n_parameters)
    v.setflags(write=False)
    images = images.numpy()
    images.setflags(write=False)
    G = GaussNewton(case.network, theta, images)
    np.testing.assert_array_equal(G @ v, (G @ torch.ones(len(v), dtype=torch.float64)).numpy())


@each_form
def test_linear_operator_serves_scipy(form, generator):
    case = BY_NAME["hidden-dense"]
    theta, images, _ = case.draw()
    n = case.network.n_parameters
    b = torch.randn(n, generator=generator, dtype=torch.float64).numpy()
    operator = GaussNewton(case.network, theta, images, "squared", C, DAMPING, form).as_linear_operator()
    matrix = dense.ggn(case.network, theta, images, "squared", C, DAMPING).numpy()
    assert operator.shape == (n, n)
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator @ np.eye(n), matrix, atol=1e-10 * matrix.max())
    np.testing.assert_allclose(operator.rmatvec(b), matrix.T @ b, atol=1e-10 * abs(matrix @ b).max())
    x, info = cg(operator, b, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), atol=1e-9 * abs(x).max())
    largest = eigsh(operator, k=3, return_eigenvectors=False, v0=b)
    np.testing.assert_allclose(sorted(largest), np.linalg.eigvalsh(matrix)[-3:], rtol=1e-9)


@each_form
def test_arguments_are_left_alone(form, generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)
    before = [x.clone() for x in (theta, images, v)]
    G = GaussNewton(case.network, theta, images, "cross_entropy", C, DAMPING, form)
    first = G @ v
    assert torch.equal(G @ v, first)
    for was, now in zip(before, (theta, images, v), strict=True):
        assert torch.equal(was, now)


def test_auto_takes_one_of_the_two_forms(generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v = direction(case, generator)
    G = GaussNewton(case.network, theta, images)
    assert G.form in FORMS
    assert torch.equal(G @ v, GaussNewton(case.network, theta, images, form=G.form) @ v)
    assert GaussNewton(case.network, theta, images, memory=0).form == "rop"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "dense"}, "form must be one of auto, rop, jacobian; got 'dense'"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
        ({"images": torch.zeros(2, 8, 8, 1)}, r"got \(2, 8, 8, 1\)"),
        ({"images": torch.zeros(0, 8, 8, 2)}, r"got \(0, 8, 8, 2\)"),
        ({"memory": -1}, "memory must not be negative; got -1"),
        ({"memory": "lots"}, "memory must be a number of bytes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors(change, message):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    with pytest.raises(ValueError, match=message):
        GaussNewton(**({"network": case.network, "theta": theta, "images": images} | change))
