"""The command line: every command on a few digits, errors in one line, and Ctrl-C."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from hfcnn import Conv, Dense, NewtonCNNClassifier, SGDCNNClassifier
from hfcnn.cli import app

TRAIN = ["--max-iter", "2", "--sampling-rate", "50", "--C", "0.1"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def fail(*arguments):
    """Run a command that ends with one line on standard error; return that line."""
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8, 1).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, X_train=X[:300], y_train=y[:300], X_test=X[300:400], y_test=y[300:400])
    return path


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    X, y = load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("data") / "unsplit.npz"
    np.savez(path, X=X[400:450].reshape(-1, 8, 8, 1).astype(np.uint8), y=y[400:450])
    return path


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.hfcnn"
    succeed("train", digits, "--save", path, *TRAIN, "--max-iter", "8", "--no-progress")
    return path


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def accuracy(text):
    return float(re.search(r"accuracy ([\d.]+) %", text).group(1))


class TestTrain:
    def test_prints_the_test_accuracy_of_each_iteration(self, digits, tmp_path):
        output = succeed("train", digits, "--save", tmp_path / "model", *TRAIN)
        assert "valid" in output
        assert len(re.findall(r"^ +[12] .*%", output, re.MULTILINE)) == 2
        assert output.splitlines()[-1].startswith(f"{tmp_path / 'model'}: the model of iteration 2, test acc")

    def test_prints_one_line_without_progress(self, digits, tmp_path):
        output = succeed("train", digits, "--save", tmp_path / "model", *TRAIN, "--no-progress")
        assert output.count("\n") == 1

    def test_tests_on_other_data(self, digits, unsplit, tmp_path):
        succeed("train", digits, "--save", tmp_path / "model", *TRAIN, "--test", unsplit)
        ours = succeed("evaluate", tmp_path / "model", unsplit)
        output = succeed("train", digits, "--save", tmp_path / "model", *TRAIN, "--test", unsplit)
        assert accuracy(output) == accuracy(ours)

    def test_goes_without_test_data(self, unsplit, tmp_path):
        output = succeed("train", unsplit, "--save", tmp_path / "model", *TRAIN)
        assert "test accuracy" not in output

    def test_takes_a_stratified_choice(self, digits, tmp_path):
        output = succeed("train", digits, "--save", tmp_path / "model", *TRAIN, "--train-size", 100)
        assert re.search(r"\b100\b", output)

    def test_takes_layers_as_text(self, digits, tmp_path):
        layers = ["--network", "conv4x5s2p2,conv6x3a2,dense9"]
        succeed("train", digits, "--save", tmp_path / "model", *TRAIN, *layers, "--no-progress")
        found = NewtonCNNClassifier.load(tmp_path / "model").network
        assert found == [Conv(4, 5, 2, pool=2), Conv(6, 3, pool=2, pooling="average"), Dense(9)]

    def test_stops_early_without_a_look_at_test_images(self, digits, tmp_path):
        options = ["--early-stopping", "--validation", "0.2", "--max-iter", "3", "--no-progress"]
        output = succeed("train", digits, "--save", tmp_path / "model", *TRAIN, *options)
        found = NewtonCNNClassifier.load(tmp_path / "model")
        assert found.early_stopping and found.validation_fraction == 0.2
        assert accuracy(output) == accuracy(succeed("evaluate", tmp_path / "model", digits))
        best = found.history_["validation_accuracy"].max()
        assert best * 60 == pytest.approx(round(best * 60))  # a fifth of the 300 training images

    def test_passes_its_options_on(self, digits, tmp_path):
        options = ["--class-weight", "balanced", "--n-jobs", "1", "--batch-size", "64", "--memory", "1.5M"]
        succeed("train", digits, "--save", tmp_path / "model", *TRAIN, *options, "--no-progress")
        found = NewtonCNNClassifier.load(tmp_path / "model")
        assert (found.class_weight, found.n_jobs, found.batch_size) == ("balanced", 1, 64)
        assert found.memory == 3 * 2**19

    def test_goes_on_from_a_checkpoint_as_if_never_stopped(self, digits, tmp_path):
        whole, part, resumed = (tmp_path / name for name in ("whole", "part", "resumed"))
        arguments = ["--sampling-rate", "50", "--C", "0.1", "--no-progress"]
        succeed("train", digits, "--save", whole, *arguments, "--max-iter", 3)
        checkpoint = tmp_path / "checkpoint"
        succeed("train", digits, "--save", part, *arguments, "--max-iter", 1, "--checkpoint", checkpoint)
        succeed("train", digits, "--save", resumed, *arguments, "--max-iter", 3, "--resume", checkpoint)
        arguments = digits, "--proba"
        assert succeed("predict", whole, *arguments) == succeed("predict", resumed, *arguments)


class TestPredict:
    def test_writes_a_row_an_image(self, model, digits):
        found = rows(succeed("predict", model, digits))
        assert [row["file"] for row in found] == [f"{digits}[{index}]" for index in range(100)]
        labels = np.load(digits)["y_test"]
        assert np.mean([int(row["label"]) for row in found] == labels) > 0.7

    def test_writes_probabilities_to_a_file(self, model, digits, tmp_path):
        path = tmp_path / "labels.csv"
        assert succeed("predict", model, digits, "--proba", "--output", path, "--split", "train") == ""
        found = rows(path.read_text())
        assert len(found) == 300
        probabilities = np.array([[float(row[f"p_{label}"]) for label in range(10)] for row in found])
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        assert probabilities.argmax(1).tolist() == [int(row["label"]) for row in found]

    @pytest.mark.parametrize("what", ["file", "folder", "pattern", "several", "arrays"])
    def test_needs_no_labels(self, what, model, digits, tmp_path):
        """A photo, a folder, a pattern, several of them, an .npz with X alone: the same labels."""
        image = pytest.importorskip("PIL.Image")
        X = np.load(digits)["X_test"][:4]
        (tmp_path / "über").mkdir()
        for index, pixels in enumerate(X):
            image.fromarray(pixels[..., 0]).save(tmp_path / "über" / f"{index}.png")
        np.savez(tmp_path / "only.npz", X=X)
        paths = sorted((tmp_path / "über").iterdir())
        arguments = {
            "file": paths[:1],
            "folder": [tmp_path / "über"],
            "pattern": [tmp_path / "über" / "*.png"],
            "several": paths,
            "arrays": [tmp_path / "only.npz"],
        }[what]
        result = CliRunner().invoke(app, ["predict", str(model), *map(str, arguments)])
        found = rows(result.stdout_bytes.decode("utf-8"))
        expected = rows(succeed("predict", model, digits))[: len(found)]
        assert len(found) == (1 if what == "file" else 4)
        assert [row["label"] for row in found] == [row["label"] for row in expected]
        if what != "arrays":
            assert [row["file"] for row in found] == list(map(str, paths[: len(found)]))

    def test_will_not_write_over_what_it_reads(self, model, digits):
        assert "is read" in fail("predict", model, digits, "--output", digits)


class TestExport:
    def test_scores_raw_pixels_as_predict_does(self, model, digits, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        output = succeed("export", model, "--onnx", tmp_path / "model.onnx")
        assert "uint8, raw pixels" in output
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        images = np.load(digits)["X_test"]
        probabilities, label = session.run(["probabilities", "label"], {"images": images})
        found = rows(succeed("predict", model, digits, "--proba"))
        assert [int(row["label"]) for row in found] == label.tolist()
        expected = [[float(row[f"p_{digit}"]) for digit in range(10)] for row in found]
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [NewtonCNNClassifier, SGDCNNClassifier])
def test_a_model_saved_from_python_works_too(kind, digits, tmp_path):
    data = np.load(digits)
    classifier = kind([Conv(4, 3, pool=2)], max_iter=2, random_state=0).fit(data["X_train"], data["y_train"])
    classifier.save(tmp_path / "model")
    found = rows(succeed("predict", tmp_path / "model", digits))
    assert [int(row["label"]) for row in found] == classifier.predict(data["X_test"]).tolist()
    assert "accuracy" in succeed("evaluate", tmp_path / "model", digits)


class TestEvaluate:
    def test_counts_by_class(self, model, digits):
        output = succeed("evaluate", model, digits)
        labels = np.array([int(row["label"]) for row in rows(succeed("predict", model, digits))])
        truth = np.load(digits)["y_test"]
        assert accuracy(output) == round(100 * np.mean(labels == truth), 2)
        counts = re.findall(r"(\d+) +│ +(\d+) +│ +(\d+) +│ +[\d.]+ %", output)
        expected = [(k, (truth == k).sum(), ((truth == k) & (labels == k)).sum()) for k in range(10)]
        assert [tuple(map(int, row)) for row in counts] == expected

    def test_takes_the_part_that_is_asked_for(self, model, digits):
        output = succeed("evaluate", model, digits)
        assert "of 100 images of" in output and output.strip().endswith("(test part)")
        assert "(training part)" in (trained := succeed("evaluate", model, digits, "--split", "train"))
        assert "of 300 images" in trained

    def test_takes_all_where_there_are_no_parts(self, model, unsplit):
        whole = succeed("evaluate", model, unsplit)
        assert "of 50 images" in whole and "(training part, there is no other)" in whole

    def test_draws_a_confusion_matrix(self, model, digits, tmp_path):
        pytest.importorskip("matplotlib")
        path = tmp_path / "confusion.png"
        succeed("evaluate", model, digits, "--confusion", path)
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_demo_reaches_97_percent_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    output = succeed("demo", "--output", tmp_path)
    assert float(re.search(r"held-out accuracy ([\d.]+) %", output).group(1)) >= 97
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion-matrix.png", "learning-curve.png"]


class TestErrors:
    def test_data_not_there(self, tmp_path):
        assert "no such file" in fail("train", tmp_path / "none", "--save", tmp_path / "model")

    def test_data_damaged(self, tmp_path):
        (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 and no more")
        assert "data.npz" in fail("train", tmp_path / "data.npz", "--save", tmp_path / "model")

    def test_folder_of_the_model_not_there(self, digits, tmp_path):
        assert "there is no folder" in fail("train", digits, "--save", tmp_path / "none" / "model")

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--network", "cnn4", "cnn3, cnn5"),
            ("--network", "conv32x5,dense", "got 'dense'"),
            ("--network", "conv8x4", "odd"),
            ("--class-weight", "even", "class_weight"),
            ("--C", "-1", "C must be a positive number"),
            ("--loss", "hinge", "hinge"),
            ("--sampling-rate", "1.5", "sampling_rate"),
            ("--device", "cuda:99", "cuda"),
            ("--precision", "fp8", "fp8"),
            ("--resume", "none", "none"),
            ("--max-bytes", "1K", "at most max_bytes=1024 are allowed"),
        ],
    )
    def test_options(self, digits, tmp_path, option, value, message):
        assert message in fail("train", digits, "--save", tmp_path / "model", *TRAIN, option, value)

    def test_max_bytes_of_images_to_score(self, model, digits):
        for command in ("predict", "evaluate"):
            assert "max_bytes=1024 are allowed" in fail(command, model, digits, "--max-bytes", "1K")
            succeed(command, model, digits, "--max-bytes", "1G")

    def test_model_not_there(self, digits, tmp_path):
        assert "none" in fail("predict", tmp_path / "none", digits)

    def test_model_is_something_else(self, digits):
        assert "not a model file" in fail("evaluate", digits, digits)

    def test_images_of_another_shape(self, model, tmp_path):
        path = tmp_path / "large.npz"
        np.savez(path, X=np.zeros((3, 9, 9, 1), np.uint8), y=np.arange(3))
        assert "(9, 9, 1)" in fail("predict", model, path)

    def test_unknown_split(self, model, digits):
        assert "'train', 'test'" in fail("predict", model, digits, "--split", "dev")

    def test_usage(self, digits):
        result = invoke("train", digits)
        assert result.exit_code == 2
        assert "--save" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_keeps_the_model(digits, tmp_path):
    path = tmp_path / "model"
    # a shell's background jobs ignore SIGINT, and so would this
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hfcnn.cli import app; app()"
    )
    arguments = ["train", digits, "--save", path, "--max-iter", "100000", "--sampling-rate", "20"]
    with subprocess.Popen(
        [sys.executable, "-P", "-u", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        for line in process.stdout:
            if re.match(r" +2 ", line):
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    iteration = int(re.search(r"Interrupted: the model is that of iteration (\d+)", rest).group(1))
    assert f"the model of iteration {iteration}" in rest
    assert len(rows(succeed("predict", path, digits))) == 100


class TestPhotographs:
    """A folder of photographs of different sizes and colours."""

    @pytest.fixture
    def photographs(self, tmp_path):
        image = pytest.importorskip("PIL.Image")
        rng = np.random.default_rng(0)
        for part, n in (("train", 8), ("test", 3)):
            for shade, label in ((40, "dark"), (200, "light")):
                (tmp_path / "photos" / part / label).mkdir(parents=True)
                for i in range(n):
                    size = tuple(rng.integers(9, 20, 2))
                    picture = image.new("RGB" if i % 2 else "L", size, (shade,) * 3 if i % 2 else shade)
                    picture.putpixel((0, 0), (255, 0, 9) if i % 2 else 255)
                    picture.save(tmp_path / "photos" / part / label / f"{i}.{'jpg' if i % 3 else 'webp'}")
        return tmp_path / "photos"

    def test_are_brought_to_one_shape(self, photographs, tmp_path):
        common = ("train", photographs, "--network", "conv2x3", "--max-iter", 1, "--save", tmp_path / "m")
        assert "--size" in fail(*common) and "--color" in fail(*common, "--size", "8,8")
        succeed(*common, "--size", "8,6", "--color", "rgb")
        assert NewtonCNNClassifier.load(tmp_path / "m").image_shape_ == (8, 6, 3)
        assert "of 6 images" in succeed("evaluate", tmp_path / "m", photographs)
