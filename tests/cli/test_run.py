"""``cnnext run``: arrays and pictures through a model file."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext.cli import main


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def colour_net(tmp_path):
    cx.set_random_seed(0)
    net = cx.Sequential([cx.Conv2D(4, 3), cx.Flatten(), cx.Dense(6), cx.Softmax()], input_shape=(10, 12, 3))
    net.save(tmp_path / "net.safetensors")
    return net


@pytest.mark.parametrize("n", [None, 1, 3])
def test_an_array_with_and_without_batch_axis(n, colour_net, tmp_path, rng, capsys):
    shape = (10, 12, 3)
    x = rng.random(shape if n is None else (n, *shape))
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out.npz"
    arguments = ["--input", str(tmp_path / "x.npy"), "--output", str(out), "--top", "2", "--threads", "1"]
    assert main(["run", str(tmp_path / "net.safetensors"), *arguments]) == 0
    expected = colour_net.predict(x.reshape(-1, *shape))
    with np.load(out) as outputs:
        [found] = outputs.values()
    np.testing.assert_array_equal(found, expected)
    lines = capsys.readouterr().out.splitlines()
    for i, row in enumerate(expected):
        best, second = np.argsort(-row)[:2]
        assert lines[1 + i] == f"  {i}: class {best} {row[best]:.4f}  class {second} {row[second]:.4f}"


def test_a_picture_is_resized_and_normalized(colour_net, tmp_path, rng):
    image = pytest.importorskip("PIL.Image")
    small = rng.integers(0, 256, (5, 6, 3), np.uint8)
    image.fromarray(small).resize((12, 10), image.Resampling.NEAREST).save(tmp_path / "x.png")
    arguments = ["--input", str(tmp_path / "x.png"), "--output", str(tmp_path / "o.npz"), "--mean", "0.5,0.4,0.3",
                 "--std", "0.25"]
    assert main(["run", str(tmp_path / "net.safetensors"), *arguments]) == 0
    pixels = small.repeat(2, axis=0).repeat(2, axis=1) / 255
    expected = colour_net.predict(((pixels - [0.5, 0.4, 0.3]) / 0.25)[np.newaxis])
    with np.load(tmp_path / "o.npz") as outputs:
        [found] = outputs.values()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_picture_for_a_channels_first_grey_net(tmp_path, rng):
    image = pytest.importorskip("PIL.Image")
    net = cx.Sequential([cx.Conv2D(2, 3, data_format="channels_first")], input_shape=(1, 7, 9))
    net.save(tmp_path / "net.safetensors")
    pixels = rng.integers(0, 256, (7, 9), np.uint8)
    image.fromarray(pixels).convert("RGB").save(tmp_path / "x.png")
    arguments = ["--input", str(tmp_path / "x.png"), "--output", str(tmp_path / "o.npz"), "--layout", "channels_first"]
    assert main(["run", str(tmp_path / "net.safetensors"), *arguments]) == 0
    with np.load(tmp_path / "o.npz") as outputs:
        [found] = outputs.values()
    np.testing.assert_allclose(found, net.predict(pixels[np.newaxis, np.newaxis] / 255), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["in order", "by name"])
def test_several_inputs(order, tmp_path, rng):
    a, b = cx.Input((3,), name="left"), cx.Input((3,), name="right")
    net = cx.Model([a, b], cx.Subtract()([a, b]))
    net.save(tmp_path / "net.safetensors")
    x, y = rng.random((2, 3), np.float32), rng.random((2, 3), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    if order == "by name":
        files = [f"right={files[1]}", f"left={files[0]}"]
    arguments = ["--input", files[0], "--input", files[1], "--output", str(tmp_path / "o.npz")]
    assert main(["run", str(tmp_path / "net.safetensors"), *arguments]) == 0
    with np.load(tmp_path / "o.npz") as outputs:
        [found] = outputs.values()
    np.testing.assert_array_equal(found, x - y)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--input", "x.npy", "--input", "x.npy"], "once for each input"),
    (["--input", "nobody=x.npy"], "unknown input 'nobody'"),
    (["--input", "short.npy"], "shape"),
    (["--input", "text.npy"], "numbers"),
    (["--input", "x.png", "--std", "0"], "greater than 0"),
    (["--input", "x.png", "--mean", "1,2"], "1 or 3"),
    (["--input", "x.png", "--layout", "channels_first"], "1, 3 or 4 channels"),
    (["--input", "text.png"], "cannot identify"),
    (["--input", "missing.npy"], "missing.npy"),
    (["--input", "objects.npy"], "allow_pickle"),
])
def test_errors(arguments, words, colour_net, tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((10, 12, 3), np.float32))
    np.save("short.npy", np.zeros((10, 3), np.float32))
    np.save("text.npy", np.full((10, 12, 3), "a"))
    np.save("objects.npy", np.full((10, 12, 3), None), allow_pickle=True)
    image.new("RGB", (12, 10)).save("x.png")
    (tmp_path / "text.png").write_text("no picture")
    assert main(["run", "net.safetensors", *arguments]) == 1
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("cnnext run: ")
