"""In a new virtual environment with the wheel, no source tree: new plugins install, pass, train, save and load."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import cnnext
from tests.cli.test_plugins import TRAIN

ROOT = Path(cnnext.__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in a source tree")]


def call(*words: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with cnnext from its wheel, and the dependencies of the one that runs the tests."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("new")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / "bin"
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    if list(packages.glob("setuptools-*")):  # Python 3.11 brings one that is too old
        call(bin_folder / "python", "-m", "pip", "uninstall", "--yes", "setuptools", cwd=folder)
    # The tests' own packages come after the new ones; what is editable there is not followed.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    call(bin_folder / "python", "-m", "pip", "install", "--no-index", "--no-deps", "--ignore-installed", wheel, cwd=folder)
    where = call(bin_folder / "python", "-c", "import cnnext; print(cnnext.__file__)", cwd=folder)
    assert where.startswith(str(packages))
    return bin_folder


@pytest.mark.parametrize("level", ["compose", "numpy", "native"])
def test_a_new_plugin_from_nothing_to_a_loaded_model(environment, tmp_path, level):
    call(environment / "cnnext", "plugins", "new", "acme/SwirlTwice", "--level", level, cwd=tmp_path)
    call(environment / "python", "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation",
         "--ignore-installed", tmp_path / "cnnext-acme", cwd=tmp_path)
    assert "acme/SwirlTwice@1" in call(environment / "cnnext", "plugins", "list", cwd=tmp_path)
    assert "17 of 17 checks" in call(environment / "cnnext", "plugins", "check", "acme/SwirlTwice", cwd=tmp_path)
    assert "trained, saved, loaded" in call(environment / "python", "-c", TRAIN, cwd=tmp_path)
    call(environment / "python", "-m", "pip", "uninstall", "--yes", "cnnext-acme", cwd=tmp_path)
