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


# ONNX models


@pytest.fixture
def onnx_net(tmp_path):
    """Channel means of an image (1 or N, 3, 4, 5), in ONNX; ``fixed`` takes one image at a time."""
    onnx = pytest.importorskip("onnx")
    for name, batch in (("open", "N"), ("fixed", 1)):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0)], "means",
            [onnx.helper.make_tensor_value_info("image", 1, [batch, 3, 4, 5])],
            [onnx.helper.make_tensor_value_info("means", 1, [batch, 3])])
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), tmp_path / f"{name}.onnx")
    return tmp_path


@pytest.mark.parametrize("layout", [[], ["--layout", "nchw"], ["--layout", "channels_first"]])
def test_a_picture_for_an_onnx_model(layout, onnx_net, capsys):
    """Where only one reading of the input's shape is a picture, the layout need not be given."""
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (8, 8), (255, 102, 0)).save(onnx_net / "x.png")
    arguments = ["--input", str(onnx_net / "x.png"), "--mean", "0.2", "--std", "2", *layout]
    assert main(["run", str(onnx_net / "open.onnx"), *arguments]) == 0
    assert "  0: class 0 0.4000  class 1 0.1000  class 2 -0.1000" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["open", "fixed"])
def test_several_files_are_several_examples(name, onnx_net, rng, capsys):
    x = rng.random((3, 3, 4, 5), np.float32)
    np.save(onnx_net / "a.npy", x[0])
    np.savez(onnx_net / "b.npz", x[1:])
    files = [str(onnx_net / "a.npy"), str(onnx_net / "b.npz")]
    arguments = ["run", str(onnx_net / f"{name}.onnx"), "--input", *files, "--save", str(onnx_net / "o.npz")]
    assert main(arguments) == 0
    with np.load(onnx_net / "o.npz") as outputs:
        np.testing.assert_allclose(outputs["means"], x.mean(axis=(2, 3)), rtol=1e-5)
    assert "  2: class" in capsys.readouterr().out


def test_each_file_has_its_line(onnx_net, capsys):
    image = pytest.importorskip("PIL.Image")
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        image.new("RGB", (5, 4), colour).save(onnx_net / f"{name}.png")
    files = [str(onnx_net / "red.png"), str(onnx_net / "blue.png")]
    assert main(["run", str(onnx_net / "open.onnx"), "--input", *files, "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  red.png: class 0 1.0000", "  blue.png: class 2 1.0000"]


def test_one_archive_for_all_inputs(tmp_path, rng):
    a, b = cx.Input((3,), name="left"), cx.Input((3,), name="right")
    cx.Model([a, b], cx.Subtract()([a, b])).save(tmp_path / "net.safetensors")
    x, y = rng.random((2, 3), np.float32), rng.random((2, 3), np.float32)
    np.savez(tmp_path / "x.npz", right=y, left=x)
    assert main(["run", str(tmp_path / "net.safetensors"), "--input", str(tmp_path / "x.npz"),
                 "--output", str(tmp_path / "o.npz")]) == 0
    with np.load(tmp_path / "o.npz") as outputs:
        [found] = outputs.values()
    np.testing.assert_array_equal(found, x - y)


def test_whole_numbers_go_to_an_input_of_whole_numbers(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "index"], ["row"])], "g",
        [onnx.helper.make_tensor_value_info("index", onnx.TensorProto.INT64, ["N"])],
        [onnx.helper.make_tensor_value_info("row", 1, ["N", 2])],
        [onnx.numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), "table")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.array([1, 0, 1], np.int32))
    arguments = ["--input", str(tmp_path / "x.npy"), "--save", str(tmp_path / "o.npz")]
    assert main(["run", str(tmp_path / "m.onnx"), *arguments]) == 0
    with np.load(tmp_path / "o.npz") as outputs:
        np.testing.assert_array_equal(outputs["row"], [[3, 4], [1, 2], [3, 4]])


@pytest.mark.parametrize(("files", "words"), [
    (["a.npy", "long.npy"], "one shape to form a batch"),
    (["two.npz"], "unknown array 'image'"),
    (["damaged.npz"], "damaged.npz"),
])
def test_errors_of_several_files(files, words, onnx_net, monkeypatch, capsys):
    monkeypatch.chdir(onnx_net)
    np.save("a.npy", np.zeros((3, 4, 5), np.float32))
    np.save("long.npy", np.zeros((3, 4, 6), np.float32))
    np.savez("two.npz", one=np.zeros(3), two=np.zeros(3))
    (onnx_net / "damaged.npz").write_bytes(b"no archive")
    assert main(["run", "open.onnx", "--input", *files]) == 1
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("cnnext run: ")
