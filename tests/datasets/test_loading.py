"""What `load` says of paths, parts and unknown files, and of files of any format that are damaged."""

import numpy as np
import pytest
from dataset_files import check, cifar_pickle, draw, planes, svmlight, tar, write_idx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from scipy.sparse import csc_array

from hfcnn.datasets import DatasetError, load


def test_absent_parts(tmp_path):
    path = write_idx(tmp_path, np.zeros((3, 4, 4)), np.zeros(3))
    with pytest.raises(DatasetError, match="no test part; expected t10k-images-idx3-ubyte"):
        load(tmp_path, split="test")
    with pytest.raises(DatasetError, match="holds one set and no test part"):
        load(path, split="test")
    with pytest.raises(DatasetError, match="split must be 'train' or 'test'; got 'valid'"):
        load(path, split="valid")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"images of shape \(4, 4, 1\); expected image_shape=\(2, 8, 1\)"):
        load(path, image_shape=(2, 8))
    check(load(path, image_shape=(4, 4)), np.zeros((3, 4, 4, 1)), np.zeros(3))
    with pytest.raises(DatasetError, match=r"image_shape=\(4, 0\)"):
        load(path, image_shape=(4, 0))


@pytest.mark.parametrize(
    "content", [b"", b"5,0,0,1\n", b"\x89PNG\r\n\x1a\n" + bytes(30), bytes(range(200)), b"BZh91"]
)
def test_unknown_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DatasetError, match="file: (of no known format|damaged|one image)"):
        load(tmp_path / "file")


def test_unknown_folder(tmp_path):
    with pytest.raises(DatasetError, match="no data set in this folder"):
        load(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_end_in_dataset_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    X, y = draw(2, 32, 32, 3)
    path = folder / "file"
    kind = data.draw(st.sampled_from(["npz", "mat", "sparse mat", "pickle", "tar", "svmlight"]))
    if kind == "npz":
        np.savez_compressed(path.with_suffix(".npz"), X=X, y=y)
        path = path.with_suffix(".npz")
    elif "mat" in kind:
        content = (
            {"Z": csc_array(planes(X).astype(float))} if "sparse" in kind else {"X": X.transpose(1, 2, 3, 0)}
        )
        with open(path, "wb") as file:
            savemat(file, content | {"y": y}, do_compression=False)
    elif kind == "pickle":
        path.write_bytes(cifar_pickle(X, y, protocol=data.draw(st.sampled_from([2, 4, 5]))))
    elif kind == "tar":
        tar(path, {"data_batch_1": cifar_pickle(X, y)})
    else:
        path.write_bytes(svmlight(X, y))
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, min(len(damaged), 700) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) - 9, 300]))])
    try:
        images, labels = load(path)
    except (DatasetError, FileNotFoundError):
        return
    assert images.dtype == np.uint8 and len(images) == len(labels)
