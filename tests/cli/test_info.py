"""``cnnext info``: the installation, and model files."""

from __future__ import annotations

import cnnext as cx
from cnnext.cli import main
from cnnext.isa import default_level


def test_the_installation(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"cnnext {cx.__version__}" in text and default_level() in text


def test_a_model_file(tmp_path, capsys):
    net = cx.Sequential([cx.Conv2D(4, 3, name="stem"), cx.Flatten(), cx.Dense(5, name="head")], input_shape=(8, 9, 2))
    net.save(tmp_path / "net.safetensors")
    assert main(["info", str(tmp_path / "net.safetensors"), "--batch-size", "3"]) == 0
    text = capsys.readouterr().out
    assert "(any, 8, 9, 2)  tensor(float)" in text and "(any, 5)  tensor(float)" in text
    assert net.summary(show=False) in text
    assert net.plan(3).explain() in text


def test_a_model_file_of_open_size(tmp_path, capsys):
    x = cx.Input((None, None, 3))
    cx.Model(x, cx.Conv2D(4, 3)(x)).save(tmp_path / "net.safetensors")
    assert main(["info", str(tmp_path / "net.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "(any, any, any, 3)" in text and "leaves open" in text


def test_a_damaged_model_file(tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"\x05" * 40)
    assert main(["info", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
