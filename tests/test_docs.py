"""What README.md and CONTRIBUTING.md show is executed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cnnext
from cnnext.layers import LAYERS

ROOT = Path(__file__).parent.parent
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w/.]+)`:\s+^```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="not in a source tree")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_programs_of_the_readme(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlxtend")
    pytest.importorskip("onnx")
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    image = pytest.importorskip("PIL.Image")
    for file in (f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)):
        (tmp_path / "pictures" / file).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (70, 60)).save(tmp_path / "pictures" / file)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    programs = [code for language, code in FENCED.findall(text("README.md")) if language == "python"]
    assert len(programs) == 9
    for program in programs:
        exec(program, names)
    printed = capsys.readouterr().out
    assert "epoch 3/3" in printed and "conv_direct" in printed
    assert (tmp_path / "digits.safetensors").exists()


def test_the_table_of_layers_is_complete():
    [table] = re.findall(r"^\| kind \| layers \|\n(.*?)\n\n", text("README.md"), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([A-Z]\w+)`", table))
    assert named == {*LAYERS, "Input"}
    assert all(hasattr(cnnext, name) for name in named)


def test_the_files_that_contributing_names_are_there():
    named = set(re.findall(r"`((?:cnnext|src|tests|docs)/[\w/.]*)`", text("CONTRIBUTING.md")))
    assert len(named) > 10
    made = {path for path, _ in FILE.findall(text("CONTRIBUTING.md"))}
    assert [path for path in sorted(named - made) if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_the_layer_of_contributing(tmp_path):
    page = text("CONTRIBUTING.md")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src", "cnnext", "tests", "build"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "debug"))
        elif source.exists():
            shutil.copy2(source, tmp_path / name)
    made = FILE.findall(page)
    assert len(made) == 4
    for path, content in made:
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(content, encoding="utf-8")
    kernels, layers = re.findall(r"^```diff\n\+(.*\n)```$", page, re.MULTILINE)
    insert(tmp_path / "cnnext/kernel_list.py", '    "conv_direct": ', kernels)
    insert(tmp_path / "cnnext/layers/__init__.py", '        "conv2d": ', layers)
    command = ["setup.py", "--quiet", "build_ext", "--inplace"]
    for arguments in (command, ["-m", "pytest", "-q", "tests/layers/test_channel_shuffle.py"]):
        result = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True,
                                env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert result.returncode == 0, result.stdout + result.stderr


def insert(path: Path, before: str, line: str) -> None:
    """Put a line before the one that begins so."""
    content = path.read_text(encoding="utf-8")
    assert content.count("\n" + before) == 1
    path.write_text(content.replace("\n" + before, "\n" + line + before), encoding="utf-8")
