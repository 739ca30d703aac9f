"""No file that someone else made can hurt: it is refused in one sentence, soon, and in little memory."""

import gzip
import json
import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest
from bombs import PICKLES, bombs, deep_tuple_key, png_folder, zeros
from dataset_files import cifar_binary, cifar_pickle, draw, write_idx

from hfcnn.datasets import DatasetError, load

#: What the bombs may take; each makes at least 32 MiB of itself.
MAX_BYTES = 1 << 24

#: The most memory that may be taken on the way to an error, with what decoders need themselves.
MOST_MIB = 100

SCRIPT = """
import json, os, resource, sys, time
from hfcnn.datasets import load
import PIL.Image, sklearn.datasets

def peak():
    # ru_maxrss would count the process that this one was started by
    if not os.path.exists("/proc/self/status"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
before = peak()
for what, path in json.load(sys.stdin).items():
    start = time.process_time()
    try:
        load(path, max_bytes=int(sys.argv[1]))
        found = "loaded"
    except BaseException as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps([what, found, peak() - before, time.process_time() - start]), flush=True)
data = b"x" * (200 << 20)
print(json.dumps(["200 MiB", "", peak() - before, 0]), flush=True)
"""

NAMES = (
    *("bzip2", "gzip", "xz", "xz dictionary", "idx header", "idx header, compressed", "text that never ends"),
    *("unknown that never ends", "npz", "npz header", "npz negative", "npz wide type", "npz directory"),
    *("npz, bzip2 within", "npz in gzip", "mat", "mat tag", "mat sparse", "svmlight", "norb"),
    *(
        "csv, empty lines",
        "csv, short lines",
        "csv, one label",
        "csv, columns",
        "tar, sparse",
        "tar, sparse, compressed",
        "tar, size",
        "tar, long name",
        "tar, pax",
    ),
    *("tar, many", "tar, zeros", "png", "png, many"),
    *(f"pickle, {what}" for what in PICKLES),
)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What became of each bomb, in a process of its own: message, MiB taken so far, seconds."""
    left = {what: str(path) for what, path in bombs(tmp_path_factory.mktemp("bombs")).items()}
    assert {*left} == {*NAMES}
    found = {}
    while left:
        try:
            command = [sys.executable, "-c", SCRIPT, str(MAX_BYTES)]
            child = subprocess.run(
                command, input=json.dumps(left), capture_output=True, text=True, timeout=90
            )
            output = child.stdout
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode() if error.stdout else ""
        lines = [json.loads(line) for line in output.splitlines()]
        found |= {what: rest for what, *rest in lines}
        left = {what: path for what, path in left.items() if what not in found}
        if left:  # the process died of this one
            what = next(iter(left))
            found[what] = ["killed the process", 0, 0]
            del left[what]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("what", NAMES)
def test_bombs_are_refused(verdicts, what):
    message, taken, seconds = verdicts[what]
    assert message.startswith("DatasetError: ")
    assert taken < MOST_MIB
    assert seconds < 20


@pytest.mark.slow
def test_memory_is_seen(verdicts):
    assert verdicts["200 MiB"][1] >= 200


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("set.npz", None),
        ("set.gz", gzip.compress(b"1 1:3 4:9\n" * 1000, mtime=0)),
        ("data_batch_1", cifar_pickle(*draw(4, 32, 32, 3))),
        ("data_batch_1.bin", cifar_binary(*draw(4, 32, 32, 3))),
    ],
    ids=["npz", "svmlight", "pickle", "binary"],
)
def test_the_limit_can_be_set(tmp_path, name, data):
    path = tmp_path / name
    if data is None:
        np.savez_compressed(path, X=np.zeros((9, 30, 30), np.uint8), y=np.arange(9))
    else:
        path.write_bytes(data)
    X, _ = load(path, max_bytes=1 << 20)
    with pytest.raises(DatasetError, match="max_bytes=2000 .*larger max_bytes if you trust"):
        load(path, max_bytes=2000)
    for wrong in (0, -1, 1.5, "1G"):
        with pytest.raises(DatasetError, match="max_bytes=.*expected a positive number"):
            load(path, max_bytes=wrong)


def test_the_default_limit_is_a_quarter_of_a_gigabyte_for_small_files(tmp_path):
    head = bytes((0, 0, 8, 3)) + np.array([257, 1024, 1024], ">u4").tobytes()
    path = write_idx(tmp_path, gzip.compress(head), np.zeros(3))
    with pytest.raises(DatasetError, match="needs 269484032 bytes, and at most max_bytes=268435456"):
        load(path)
    with pytest.raises(DatasetError, match="0 bytes of images after the header"):
        load(path, max_bytes=1 << 29)


def test_a_large_limit_lets_large_files_in(tmp_path):
    head = bytes((0, 0, 8, 3)) + np.array([8, 1024, 1024], ">u4").tobytes()
    path = write_idx(tmp_path, zeros(gzip.compress, head, 8), np.zeros(8))
    with pytest.raises(DatasetError, match="needs 8388608 bytes"):
        load(path, max_bytes=1 << 23 - 1)
    assert load(path)[0].shape == (8, 1024, 1024, 1)


# --- what is no ordinary file ---

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # a path of a socket is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def make_link(target):
    return lambda path: path.symlink_to(target)


SPECIAL = {
    "pipe": make_pipe,
    "socket": make_socket,
    "device": make_link("/dev/zero"),
    "nothing": make_link("nowhere"),
}


@posix
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", ["alone", "images", "labels", "batch", "picture", "class"])
def test_pipes_devices_sockets(tmp_path, kind, place):
    folder = tmp_path / "data"
    path = {
        "alone": folder,
        "images": folder / "train-images-idx3-ubyte",
        "labels": folder / "train-labels-idx1-ubyte",
        "batch": folder / "data_batch_1.bin",
        "picture": folder / "a" / "1.png",
        "class": folder / "c",
    }[place]
    if place in ("picture", "class"):
        png_folder(folder)
    elif place != "alone":
        folder.mkdir()
    if place in ("images", "labels"):
        write_idx(folder, np.zeros((3, 4, 4)), np.zeros(3))
        path.unlink()
    SPECIAL[kind](path)
    with pytest.raises((DatasetError, FileNotFoundError), match=path.name):
        load(folder)


@posix
def test_links_out_of_the_tree(tmp_path):
    outside, folder = png_folder(tmp_path / "outside"), png_folder(tmp_path / "data")
    (folder / "a" / "within.png").symlink_to(folder / "b" / "0.png")
    assert len(load(folder)[0]) == 3
    for link, target in ((folder / "a" / "1.png", outside / "a" / "0.png"), (folder / "c", outside / "a")):
        link.symlink_to(target)
        with pytest.raises(DatasetError, match=f"{link.name}: a link out of"):
            load(folder)
        link.unlink()
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be reached by a link
    assert len(load(tmp_path / "link")[0]) == 3
    (folder / "train").symlink_to(outside)
    with pytest.raises(DatasetError, match="train: a link out of"):
        load(folder)


# --- only documented errors ---


@pytest.mark.parametrize("wrong", [5, "28x28", (4, "a"), (0, 1), (1, 2, 3, 4), {}], ids=str)
def test_wrong_image_shapes(tmp_path, wrong):
    with pytest.raises(DatasetError, match="image_shape="):
        load(tmp_path, image_shape=wrong)


def test_no_memory(tmp_path, monkeypatch):
    path = write_idx(tmp_path, np.zeros((3, 4, 4)), np.zeros(3))

    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("hfcnn.datasets.idx.read_up_to", fail)
    with pytest.raises(DatasetError, match="needs more memory than there is"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_unreadable(tmp_path):
    path = write_idx(tmp_path, np.zeros((3, 4, 4)), np.zeros(3))
    path.chmod(0)
    with pytest.raises(PermissionError):
        load(path)


def test_pickles_that_recurse_in_what_is_not_used(tmp_path):
    X, y = draw(2, 32, 32, 3)
    deep = []
    for _ in range(100):
        deep = [deep]
    (tmp_path / "data_batch_1").write_bytes(cifar_pickle(X, y, other=deep))
    assert len(load(tmp_path)[0]) == 2
    (tmp_path / "data_batch_1").write_bytes(deep_tuple_key(300))
    with pytest.raises(DatasetError, match="a dict with a key of type tuple"):
        load(tmp_path)


# --- pickles that are sound ---


def test_labels_of_objects(tmp_path):
    X = np.zeros((2, 3, 3), np.uint8)
    np.savez(tmp_path / "set.npz", X=X, y=np.array(["b", "a"], object))
    assert load(tmp_path / "set.npz")[1].tolist() == ["b", "a"]
    np.savez(tmp_path / "set.npz", X=X, y=np.array(["b", None], object))
    with pytest.raises(DatasetError, match="array y: objects that are no plain text"):
        load(tmp_path / "set.npz")


@pytest.mark.parametrize("protocol", [0, 1])
def test_old_protocols(tmp_path, protocol):
    X, y = draw(2, 32, 32, 3)
    path = tmp_path / "data_batch_1"
    path.write_bytes(cifar_pickle(X, y, protocol=protocol))
    np.testing.assert_array_equal(load(path)[0], X)
    path.write_bytes(pickle.dumps({"data": os.system}, protocol))
    with pytest.raises(DatasetError, match="refused, the pickle asks for"):
        load(path)


def test_progressive_jpegs_count_whole(tmp_path):
    """Decoders keep all of one until its last pass, however small it is wanted."""
    image = pytest.importorskip("PIL.Image").new("L", (3000, 3000))
    (tmp_path / "a").mkdir()
    for progressive in (False, True):
        image.save(tmp_path / "a" / "0.jpg", progressive=progressive)
        if not progressive:
            assert load(tmp_path, size=(8, 8), max_bytes=1 << 20)[0].shape == (1, 8, 8, 1)
    with pytest.raises(DatasetError, match="3000 x 3000 pixels need 36000000 bytes"):
        load(tmp_path, size=(8, 8), max_bytes=1 << 20)
