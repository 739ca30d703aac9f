"""Files are written as a whole or not at all, by any number of writers, and never through a planted link."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hfcnn.files import check_output_path, check_separate, write_atomically


def test_threads_that_write_one_file_leave_one_of_their_contents(tmp_path):
    path, contents = tmp_path / "file", [bytes([i]) * 100_000 for i in range(4)]
    damaged = []

    def write(content):
        for _ in range(25):
            write_atomically(path, content)
            if path.read_bytes() not in contents:
                damaged.append(content[0])

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not damaged
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_mode_of_a_file_is_kept_and_a_new_one_follows_the_umask(tmp_path):
    old, new, plain = tmp_path / "old", tmp_path / "new", tmp_path / "plain"
    old.write_bytes(b"1")
    old.chmod(0o640)
    write_atomically(old, b"2")
    write_atomically(new, b"2")
    plain.touch()
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


def test_a_link_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "model").symlink_to(victim)
    write_atomically(tmp_path / "model", b"new")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "model").is_symlink() and (tmp_path / "model").read_bytes() == b"new"


KILLED = """
import os, signal, sys
import hfcnn.files as files
files.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(sys.argv[1], b"never there")
"""


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, path])
    assert killed.returncode < 0 and path.read_bytes() == b"old"
    (left,) = (file for file in tmp_path.iterdir() if file != path)
    alive = left.with_name(left.name.replace(left.name.split("-")[2], "1"))  # of process 1
    alive.touch()
    write_atomically(path, b"new")
    assert set(tmp_path.iterdir()) == {path, alive}
    assert path.read_bytes() == b"new"


def test_a_long_name_is_no_hindrance(tmp_path):
    path = tmp_path / ("n" * 255)
    write_atomically(check_output_path(path, "save"), b"1")
    assert path.read_bytes() == b"1"


def test_devices_are_not_written_over(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (
        lambda path: write_atomically(path, b"1"),
        lambda path: check_output_path(path, "save"),
    ):
        with pytest.raises(OSError, match="pipe.* is no ordinary file"):
            write(tmp_path / "pipe")
        with pytest.raises(OSError, match="no ordinary file"):
            write("/dev/null")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (".", IsADirectoryError, "is a folder"),
        ("", IsADirectoryError, "is a folder"),
        ("absent/run", FileNotFoundError, r"absent/run'?: there is no folder '.*absent'"),
        ("file/run", NotADirectoryError, "there is no folder"),
        ("n" * 256, OSError, "nnn'?:? .*too long"),
        ("/proc/run", OSError, "cannot be written"),
        ("a\0b", OSError, "null character"),
    ],
    ids=["folder", "empty", "missing", "file as folder", "long", "not writable", "null"],
)
def test_paths_are_checked_beforehand(name, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(error, match=message) as caught:
        check_output_path(name, "checkpoint")
    assert "checkpoint=" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_no_path_at_all():
    with pytest.raises(TypeError, match="checkpoint must be a path"):
        check_output_path(3, "checkpoint")


def test_a_protected_file_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "model").touch()
    monkeypatch.setattr("hfcnn.files.os.access", lambda path, mode: False)  # root may do all
    with pytest.raises(PermissionError, match="write-protected"):
        check_output_path(tmp_path / "model", "--save")


def test_an_output_must_be_none_of_the_inputs(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.npz").touch()
    os.link(data / "train.npz", tmp_path / "twin")
    (tmp_path / "link").symlink_to(data / "train.npz")
    for output, source in (
        (data / "train.npz", data / "train.npz"),
        (tmp_path / "twin", data / "train.npz"),
        (tmp_path / "link", data / "train.npz"),
        (data / ".." / "data" / "train.npz", data),
        (tmp_path / "link", data),
    ):
        with pytest.raises(OSError, match=r"--save=.* would be written over DATA="):
            check_separate(output, "--save", DATA=source)
    check_separate(data / "model", "--save", DATA=data, TEST=None)
