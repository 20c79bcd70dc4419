"""``cnnext train``: pictures of bars, grey and colour, and IDX files; what it leaves behind, and what it refuses."""

from __future__ import annotations

import csv
import json
import signal

import numpy as np
import pytest

import cnnext as cx
from cnnext.cli import main, train
from tests.cli.test_demo_digits import write_idx_folder

pillow = pytest.importorskip("PIL.Image")

SMALL = ["--model", "INPUT-CONV-RELU-POOL-FC", "--option", "filters=4", "--image-size", "12,12", "--batch-size", "8"]


def write_pictures(folder, mode="L", n=20, classes=("low", "middle", "top")):
    """Bars in one of three places: every network learns them."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 60, (12, 14, 3), np.uint8)
            pixels[4 * label : 4 * label + 4] += 180
            pillow.fromarray(pixels).convert(mode).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture
def bars(tmp_path):
    return write_pictures(tmp_path / "bars")


def run(folder, out, *more):
    return main(["train", "--data", str(folder), "--out", str(out), "--threads", "1", *more])


def error_of(capsys, *arguments):
    assert run(*arguments) == 1
    return capsys.readouterr().err


def weights_in(out):
    return [w.tobytes() for w in cx.load(out / "model.safetensors").get_weights()]


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3), ("P", 3)])
def test_pictures(tmp_path, capsys, mode, channels):
    folder, out = write_pictures(tmp_path / "bars", mode), tmp_path / "new" / "out"
    assert run(folder, out, *SMALL, "--epochs", "8", "--augment", "flip", "shift=1", "--learning-rate", "0.01") == 0
    text = capsys.readouterr().out
    assert "3 classes (low, middle, top): 48 pictures to train on, 12 to validate on." in text
    assert f"input (12, 12, {channels})" in text and "epoch 8/8" in text and "accuracy          100.00 %" in text
    names = {"model.safetensors", "classes.txt", "log.csv", "history.png", "confusion.png", "checkpoint"}
    assert {path.name for path in out.iterdir()} == names
    assert (out / "classes.txt").read_text().split() == ["low", "middle", "top"]
    assert (out / "history.png").read_bytes()[:4] == (out / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [row["epoch"] for row in rows] == list("12345678")
    assert float(rows[-1]["val_accuracy"]) == 1 and float(rows[-1]["loss"]) < float(rows[0]["loss"])
    net = cx.load(out / "model.safetensors")
    picture = np.asarray(pillow.open(folder / "middle" / "00.png").convert("L" if channels == 1 else "RGB").resize((12, 12)))
    found = net.predict(picture.reshape(1, 12, 12, channels) / np.float32(255))[0]
    assert found.argmax() == 1 and found.sum() == pytest.approx(1, abs=1e-5)
    assert main(["run", str(out / "model.safetensors"), "--input", str(folder / "top" / "01.png")]) == 0
    assert "class 2" in capsys.readouterr().out.splitlines()[1][:30]


def test_networks_by_name_get_pictures_of_their_size(bars, tmp_path, capsys):
    assert run(bars, tmp_path / "a", "--epochs", "1") == 0
    assert "Network: lenet5, input (28, 28, 1), 61,111 parameters" in capsys.readouterr().out
    assert run(bars, tmp_path / "b", "--epochs", "1", "--image-size", "32,36", "--channels", "3", "--model", "vgg11",
               "--option", "small_images=true", "--log", "jsonl") == 0
    assert "Network: vgg11, input (32, 36, 3)" in capsys.readouterr().out
    [row] = map(json.loads, (tmp_path / "b" / "log.jsonl").read_text().splitlines())
    assert row["epoch"] == 1 and "val_loss" in row


def test_idx_files(tmp_path, capsys):
    folder = tmp_path / "idx"
    folder.mkdir()
    write_idx_folder(folder)
    assert run(folder, tmp_path / "out", "--epochs", "2", "--augment", "rotate=5", "--optimizer", "sgd", "--schedule",
               "one-cycle", "--learning-rate", "0.05") == 0
    text = capsys.readouterr().out
    assert "4 classes (0, 1, 2, 3): 400 pictures to train on, 60 to validate on." in text
    assert "accuracy          100.00 %" in text and "top-3 error rate    0.00 %" in text
    assert "`--image-size` must be left out for IDX files" in error_of(capsys, folder, tmp_path / "b", "--image-size", "9,9")


@pytest.mark.parametrize("mix", ["mixup=0.4", "cutmix=1"])
def test_mixtures(bars, tmp_path, capsys, mix):
    for out, more in (("mixed", ["--mix", mix]), ("plain", [])):
        assert run(bars, tmp_path / out, *SMALL, "--epochs", "8", "--learning-rate", "0.01", *more) == 0
        assert "accuracy          100.00 %" in capsys.readouterr().out
    assert weights_in(tmp_path / "mixed") != weights_in(tmp_path / "plain")


def test_a_folder_to_validate_on(bars, tmp_path, capsys):
    validation = write_pictures(tmp_path / "validation", "RGB", n=3)
    assert run(bars, tmp_path / "out", *SMALL, "--validation", str(validation), "--epochs", "1") == 0
    assert "60 pictures to train on, 9 to validate on" in capsys.readouterr().out
    assert "`--validation-split` must be left out" in error_of(
        capsys, bars, tmp_path / "b", "--validation", str(validation), "--validation-split", "0.5")
    (validation / "top").rename(validation / "up")
    assert "`--validation` must hold the classes of --data, low, middle, top." in error_of(
        capsys, bars, tmp_path / "b", "--validation", str(validation))


def test_without_validation(bars, tmp_path, capsys):
    assert run(bars, tmp_path / "out", *SMALL, "--validation-split", "0", "--epochs", "1") == 0
    assert "0 to validate on" in capsys.readouterr().out
    assert not (tmp_path / "out" / "confusion.png").exists() and (tmp_path / "out" / "history.png").exists()
    assert "`--patience` must be left out" in error_of(
        capsys, bars, tmp_path / "b", "--validation-split", "0", "--patience", "1")


def test_patience_keeps_the_best_weights(bars, tmp_path, capsys):
    assert run(bars, tmp_path / "out", *SMALL, "--epochs", "60", "--patience", "2", "--learning-rate", "0.3") == 0
    capsys.readouterr()
    rows = list(csv.DictReader((tmp_path / "out" / "log.csv").open()))
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert len(rows) == int(best["epoch"]) + 2 < 60
    data = cx.data.ImageFolder(bars, (12, 12), 1).split(0.2)[1]
    net = cx.load(tmp_path / "out" / "model.safetensors")
    net.compile(loss="sparse_categorical_crossentropy")
    assert net.evaluate(data)["loss"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


@pytest.fixture
def ctrl_c():
    """As in a terminal: a shell starts what runs in the background with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_and_resume(ctrl_c, bars, tmp_path, capsys, monkeypatch):
    more = [*SMALL, "--epochs", "3", "--augment", "shift=2", "--schedule", "cosine"]
    assert run(bars, tmp_path / "whole", *more) == 0
    kept = cx.CSVLogger.on_epoch_end

    def interrupted(self, epoch, logs):
        kept(self, epoch, logs)
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(cx.CSVLogger, "on_epoch_end", interrupted)
        assert run(bars, tmp_path / "parts", *more) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().out
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert "`--resume` must be given to go on" in error_of(capsys, bars, tmp_path / "parts", *more)
    assert run(bars, tmp_path / "parts", *more, "--resume") == 0
    assert weights_in(tmp_path / "parts") == weights_in(tmp_path / "whole")
    for name in ("log.csv", "confusion.png", "history.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_seed_decides(bars, tmp_path, capsys):
    weights = []
    for out, seed, threads in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        main(["train", "--data", str(bars), "--out", str(tmp_path / out), *SMALL, "--epochs", "1", "--augment", "flip",
              "--seed", str(seed), "--threads", str(threads)])
        weights.append(weights_in(tmp_path / out))
    assert weights[0] == weights[1] != weights[2]


def test_without_matplotlib(bars, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert run(bars, tmp_path / "out", *SMALL, "--epochs", "1") == 0
    assert "pip install matplotlib" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").exists() and not (tmp_path / "out" / "history.png").exists()


@pytest.mark.parametrize("more, error", [
    (["--model", "lenet"], "unknown network 'lenet'. Did you mean 'lenet5'?"),
    (["--model", "INPUT-CONV"], "have an FC"),
    (["--option", "small_images=true"], "unknown option of lenet5 'small_images'"),
    (["--model", "unet", "--image-size", "32,32"], "`outputs` must be one of shape (3,)"),
    (["--validation-split", "0.01"], "`--validation-split` must leave pictures on both sides"),
    (["--data", "missing"], "`--data` must be a folder. Received --data='missing'"),
    (["--image-size", "4"], "conv2d 'conv2': `kernel_size` must fit"),
])
def test_what_is_refused(bars, tmp_path, capsys, more, error):
    assert error in error_of(capsys, bars, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_data(bars, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "`--data` must hold a folder of pictures for each class, or the IDX files" in error_of(
        capsys, tmp_path / "empty", tmp_path / "out")
    write_pictures(tmp_path / "one", classes=("low",))
    assert "`--data` must hold two classes or more" in error_of(capsys, tmp_path / "one", tmp_path / "out")
    (bars / "top" / "00.png").write_bytes(b"no picture")
    assert "top/00.png" in error_of(capsys, bars, tmp_path / "out", *SMALL)


@pytest.mark.parametrize("more, error", [
    (["--augment", "flop"], "unknown augmentation 'flop'. Did you mean 'flip'?"),
    (["--augment", "flip=1"], "Known: color=NUMBER"),
    (["--augment", "shift=x"], "'shift=x'"), (["--augment", "crop=2"], "`smallest` must be at most 1"),
    (["--mix", "mixin=1"], "unknown mixture 'mixin=1'"), (["--mix", "mixup=0"], "`alpha` must be greater than 0"),
    (["--learning-rate", "0"], "greater than 0"), (["--validation-split", "1"], "from 0 to below 1"),
    (["--option", "filters"], "NAME=NUMBER"), (["--image-size", "0,3"], "at least 1"),
    (["--image-size", "8,8,1"], "ROWS,COLUMNS"),
])
def test_wrong_arguments(tmp_path, capsys, more, error):
    with pytest.raises(SystemExit) as left:
        run(tmp_path, tmp_path / "out", *more)
    assert left.value.code == 2 and error in capsys.readouterr().err
