"""From README alone: a folder of photos of any size is trained on, scored and exported."""

import csv
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from hfcnn import Conv
from hfcnn.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
Image = pytest.importorskip("PIL.Image")
onnxruntime = pytest.importorskip("onnxruntime")

#: A small network and few iterations: README's commands take minutes as they stand.
QUICK = ["--network", "conv8x5p4", "--max-iter", "5", "--C", "1"]

#: EXIF orientation: the turn that a viewer makes, and the one that the camera made before.
TURNS = {1: 0, 6: 90, 8: 270, 3: 180}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 300 JPEG photos of three digits, of different sizes, colours and orientations."""
    folder = tmp_path_factory.mktemp("work")
    X, y = load_digits(n_class=3, return_X_y=True)
    rng = np.random.default_rng(0)
    for index, (pixels, digit) in enumerate(zip(X[:300], y[:300], strict=True)):
        image = Image.fromarray((pixels.reshape(8, 8) * 15.9).astype(np.uint8))
        width, height = 40 + rng.integers(24, size=2)
        image = image.resize((int(width), int(height)), Image.Resampling.BICUBIC)
        if index % 3 == 0:
            image = image.convert("RGB")
        orientation = list(TURNS)[index % 4]
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = folder / "photos" / ("zéro", "one", "two")[digit] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.rotate(TURNS[orientation], expand=True).save(path, exif=exif, quality=95)
    return folder


def block(mark):
    return re.search(rf"<!-- photos {mark} -->\n```\w*\n(.*?)```", README, re.DOTALL).group(1)


def scores(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["probabilities", "label"], {"images": images})


def test_by_one_command_each(photos, monkeypatch):
    monkeypatch.chdir(photos)
    commands = [shlex.split(line, comments=True) for line in block("commands").splitlines()]
    assert [words[:2] for words in commands] == [
        ["hfcnn", name] for name in ("train", "evaluate", "predict", "export")
    ]
    output = []
    for _, *words in commands:
        words += QUICK if words[0] == "train" else []
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        output.append(result.output)
    assert float(re.search(r"accuracy ([\d.]+) %", output[1]).group(1)) > 95
    rows = list(csv.DictReader(io.StringIO(Path("labels.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 300
    assert np.mean([Path(row["file"]).parent.name == row["label"] for row in rows]) > 0.95
    from hfcnn.datasets import load_images

    images, names = load_images("photos", size=(32, 32), color="rgb")
    assert names == [row["file"] for row in rows]
    probabilities, labels = scores("photos.onnx", images)
    assert labels.tolist() == [row["label"] for row in rows]
    expected = [[float(row[f"p_{name}"]) for name in ("one", "two", "zéro")] for row in rows]
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_in_ten_lines_of_python(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    code = block("example")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 10
    namespace = {"Conv": Conv}
    exec(
        code.replace("random_state=0", "network=[Conv(8, 5, pool=4)], random_state=0, C=1, max_iter=5"),
        namespace,
    )
    assert float(capsys.readouterr().out) > 0.95
    _, labels = scores("photos.onnx", namespace["X"][:50])
    assert labels.tolist() == namespace["clf"].predict(namespace["X"][:50]).tolist()
