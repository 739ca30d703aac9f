"""How often images move to a device, in which type, and what is read ahead; the device only pretends."""

import threading

import numpy as np
import pytest
import torch
from networks import BY_NAME

from hfcnn import GaussNewton, ImageScaler, NewtonCNNClassifier, Objective
from hfcnn.estimator.scaling import ScaleBatch
from hfcnn.image_reader import ImageReader, is_on_disk, is_remote

CASE = BY_NAME["two-layers"]
CPU = torch.device("cpu")
L = 23


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (L, *CASE.network.input_shape), dtype=np.uint8)


@pytest.fixture
def gpu(monkeypatch):
    """Let the CPU be a GPU with `free` bytes; returns what is sent to it, each as (images, dtype, thread)."""

    def pretend(free):
        sent = []

        def send(part, device):
            sent.append((len(part), part.dtype, threading.current_thread() is threading.main_thread()))
            return part.clone()

        monkeypatch.setattr("hfcnn.image_reader.is_remote", lambda images, device: True)
        monkeypatch.setattr("hfcnn.image_reader.free_bytes", lambda device: free)
        monkeypatch.setattr("hfcnn.image_reader.send", send)
        return sent

    return pretend


def test_where_images_have_to_move(tmp_path):
    assert not is_remote(torch.zeros(2), CPU) and not is_remote(np.zeros(2), CPU)
    assert is_remote(torch.zeros(2), torch.device("cuda:1")) and is_remote(np.zeros(2), torch.device("cuda"))
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert is_on_disk(mapped) and is_on_disk(np.asarray(mapped)[1:].reshape(3, 3, 1))
    assert not is_on_disk(np.zeros(2)) and not is_on_disk(torch.zeros(2))


@pytest.mark.parametrize("chunk", [1, 100, 2**26])
def test_a_fit_moves_each_image_once(chunk, gpu, pixels, monkeypatch):
    """In its own type, one byte a pixel: it is scaled on the device, where S is gathered too."""
    monkeypatch.setattr("hfcnn.image_reader.CHUNK_BYTES", chunk)
    labels = np.arange(L) % 3
    settings = {
        "C": 1.0,
        "max_iter": 3,
        "random_state": 0,
        "batch_size": 4,
        "sampling_rate": 0.5,
        "memory": 0,
    }
    plain = NewtonCNNClassifier(CASE.network, **settings).fit(pixels, labels)
    sent = gpu(free=10 * pixels.nbytes)
    classifier = NewtonCNNClassifier(CASE.network, **settings).fit(pixels, labels)
    assert sum(n for n, *_ in sent) == L, "images that moved"
    assert {dtype for _, dtype, _ in sent} == {torch.uint8}
    assert np.array_equal(classifier.theta_, plain.theta_)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "bool", "float16", "float32", "float64"])
def test_scaling_on_the_device_has_the_bits_of_the_scaler(dtype, monkeypatch):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 2 if dtype == "bool" else 200, (L, 5, 4, 3)).astype(dtype)
    images[3] = images[3, 0, 0, 0]  # all pixels alike
    if dtype == "float64":
        images[5, 0, :2, 0] = -1e308, 1.5e308  # whose difference overflows
    scaler = ImageScaler().fit(images)
    monkeypatch.setattr("hfcnn.estimator.scaling.CHUNK", 5 * 4 * 3 * 7)
    found = ScaleBatch(scaler.mean_)(torch.from_numpy(images)).numpy()
    wanted = scaler.transform(images)
    assert found.dtype == wanted.dtype and np.array_equal(found, wanted)


def test_images_that_take_too_much_of_the_device_come_batch_by_batch_and_ahead(gpu, pixels):
    theta, labels = CASE.network.init(0, torch.float64), torch.arange(L) % 3
    plain = Objective(CASE.network, pixels, labels, batch_size=5).value_and_gradient(theta)
    sent = gpu(free=pixels.nbytes)
    objective = Objective(CASE.network, pixels, labels, batch_size=5)
    for n_passes in (1, 2):
        value, gradient = objective.value_and_gradient(theta)
        assert value == plain[0] and torch.equal(gradient, plain[1])
        assert sum(n for n, *_ in sent) == n_passes * L, "each image once a pass"
    assert not any(in_main for *_, in_main in sent), "read by the main thread"
    assert {dtype for _, dtype, _ in sent} == {torch.uint8}


def test_a_device_that_is_full_after_all(gpu, pixels, monkeypatch):
    original = torch.empty

    def empty(*arguments, **keywords):
        if keywords.get("dtype") == torch.uint8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*arguments, **keywords)

    gpu(free=10 * pixels.nbytes)
    monkeypatch.setattr(torch, "empty", empty)
    reader = ImageReader(pixels, CPU)
    assert torch.equal(reader.read(slice(0, 9), torch.float32), torch.from_numpy(pixels[:9]).float())


def test_the_next_batch_is_read_while_this_one_is_used(tmp_path, pixels):
    np.save(tmp_path / "x.npy", pixels)
    asked, release = [], threading.Event()

    class Slow:
        """On disk; says what is read, and the second read waits."""

        is_on_disk, shape, dtype = True, pixels.shape, pixels.dtype

        def __len__(self):
            return L

        def __getitem__(self, index):
            asked.append(index)
            if len(asked) == 2:
                assert release.wait(10)
            return pixels[index]

    reader = ImageReader(Slow(), CPU)
    first = reader.read(slice(0, 4), torch.float64, slice(4, 8))
    assert torch.equal(first, torch.from_numpy(pixels[:4]).double()), "the second is still being read"
    release.set()
    assert torch.equal(reader.read(slice(4, 8), torch.float64), torch.from_numpy(pixels[4:8]).double())
    assert asked == [slice(0, 4), slice(4, 8)], "nothing is read twice"


def test_a_batch_that_was_not_foreseen(tmp_path, pixels):
    np.save(tmp_path / "x.npy", pixels)
    reader = ImageReader(np.load(tmp_path / "x.npy", mmap_mode="r"), CPU)
    some = np.array([7, 3, 3])
    reader.read(slice(0, 4), torch.float32, slice(4, 8))
    assert torch.equal(reader.read(some, torch.float32, some[:2]), torch.from_numpy(pixels[some]).float())
    assert torch.equal(reader.read(some[:2], torch.float64), torch.from_numpy(pixels[some[:2]]).double())
    assert torch.equal(reader.read(some[:2], torch.float32), torch.from_numpy(pixels[some[:2]]).float())


def test_errors_of_reading_ahead_come_where_the_batch_is_used():
    class Broken:
        is_on_disk, shape, dtype = True, (8, *CASE.network.input_shape), np.dtype(np.float32)

        def __len__(self):
            return 8

        def __getitem__(self, index):
            if index.start >= 4:
                raise OSError("the disk is gone")
            return np.zeros((2, *CASE.network.input_shape), np.float32)

    objective = Objective(CASE.network, Broken(), torch.zeros(8), batch_size=2)
    with pytest.raises(OSError, match="the disk is gone"):
        objective.value(CASE.network.init(0))


def test_products_read_a_mapped_file_as_they_read_memory(tmp_path, pixels):
    np.save(tmp_path / "x.npy", pixels)
    theta = CASE.network.init(0, torch.float64)
    indices = np.array([1, 5, 6, 7, 20])
    mapped, inside = (
        GaussNewton(CASE.network, theta, x, indices=indices, batch_size=2, memory=0) @ theta
        for x in (np.load(tmp_path / "x.npy", mmap_mode="r"), pixels)
    )
    assert torch.equal(mapped, inside)
