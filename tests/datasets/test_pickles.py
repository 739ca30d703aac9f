"""Pickles run nothing."""

import os
import pickle
import sys

import numpy as np
import pytest
from dataset_files import check, cifar_pickle, draw, planes, tar

from hfcnn.datasets import DatasetError, load


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("archived", [False, True])
def test_pickles_do_not_run(tmp_path, protocol, archived):
    mark = tmp_path / "ran"
    attacks = [
        Malicious(os.mkdir, str(mark)),
        Malicious(exec, f"open({str(mark)!r}, 'w').close()"),
        Malicious(np.load, str(mark)),
        Malicious(getattr, np.ndarray, "tofile"),
        Malicious(sys.exit, 1),
    ]
    for attack in attacks:
        data = cifar_pickle(*draw(1, 32, 32, 3), protocol=protocol, filenames=[attack])
        path = tmp_path / "data_batch_1"
        path.write_bytes(data)
        if archived:
            path = tmp_path / "cifar.tar.gz"
            tar(path, {"data_batch_1": data})
        with pytest.raises(DatasetError, match="refused, the pickle asks for .*; expected only arrays"):
            load(path)
        assert not mark.exists()


def test_pickled_array_of_objects(tmp_path):
    data = pickle.dumps({"data": np.array([[1, None]]), "labels": [1]})
    (tmp_path / "data_batch_1").write_bytes(data)
    with pytest.raises(DatasetError, match="an array of type O"):
        load(tmp_path)


def test_pickled_array_in_other_orders(tmp_path):
    X, y = draw(3, 32, 32, 3)
    for protocol in (2, 5):
        batch = {"data": np.asfortranarray(planes(X)), "labels": y.astype(">i4")}
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
        check(load(tmp_path), X, y)


def test_pickle_cannot_reach_other_codecs(tmp_path):
    import _codecs

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Malicious(_codecs.encode, "x", "zlib_codec"), 2))
    with pytest.raises(DatasetError, match="refused, the pickle asks for the encoding zlib_codec"):
        load(tmp_path)
