"""`cnnext._files.atomic_write` and the error grammar: a write that fails or dies leaves the old file whole."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cnnext import _files
from cnnext._files import atomic_write
from cnnext.errors import CnnextError, KernelError, ModelFileError, PluginError, message, unknown

# Children load this one file, not the package: it needs the standard library alone, and there are many children.
PRELUDE = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("_files", {_files.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
atomic_write = module.atomic_write
"""
OLD = b"old" * 1000
NEW = b"new" * 100_000

# Runs in a child: dies, or fails, just before or just after one of the system calls that a write makes.
CHILD = """
import os, signal, sys
target, action, moment, name, number = sys.argv[1:]
content = b"new" * 100_000
calls = []

def wrap(name_, function):
    def wrapped(*args, **kwargs):
        calls.append(name_)
        here = name_ == name and calls.count(name_) == int(number)
        if here and moment == "before":
            strike()
        result = function(*args, **kwargs)
        if here and moment == "after":
            strike()
        return result
    return wrapped

def strike():
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "exit":
        os._exit(9)
    raise OSError(5, "Input/output error")

for name_ in ("open", "fdopen", "fsync", "replace"):
    setattr(os, name_, wrap(name_, getattr(os, name_)))
body = wrap("body", lambda file: file.write(content[:150_000]))
with atomic_write(target) as file:
    body(file)
    file.write(content[150_000:])
"""

# (call, how often it was made, is the new content in place after it?)
STAGES = [("open", 1, False), ("fdopen", 1, False), ("body", 1, False), ("fsync", 1, False), ("replace", 1, True),
          ("open", 2, True), ("fsync", 2, True)]
MOMENTS = [(name, number, moment, done and not (name == "replace" and moment == "before"))
           for name, number, done in STAGES for moment in ("before", "after")]


def run_child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PRELUDE + code, *arguments], capture_output=True, text=True,
                          timeout=60, check=False)


def write(path: Path, content: bytes = NEW) -> None:
    with atomic_write(path) as file:
        file.write(content)


@pytest.mark.parametrize(("name", "number", "moment", "done"), MOMENTS)
@pytest.mark.parametrize("action", ["kill", "exit"])
def test_a_process_that_dies_leaves_a_whole_file(tmp_path, action, name, number, moment, done):
    target = tmp_path / "model.safetensors"
    target.write_bytes(OLD)
    child = run_child(CHILD, str(target), action, moment, name, str(number))
    assert child.returncode == (-signal.SIGKILL if action == "kill" else 9), child.stderr
    assert target.read_bytes() == (NEW if done else OLD)


# Without ("open", 1, "after"): nothing can fail between the creation of the file and the next instruction.
@pytest.mark.parametrize(("name", "number", "moment", "done"), [m for m in MOMENTS if m[:3] != ("open", 1, "after")])
def test_a_write_that_fails_leaves_a_whole_file_and_nothing_else(tmp_path, name, number, moment, done):
    target = tmp_path / "model.safetensors"
    target.write_bytes(OLD)
    child = run_child(CHILD, str(target), "raise", moment, name, str(number))
    assert child.returncode == 1 and "Input/output error" in child.stderr
    # An error after the renaming cannot bring the old content back.
    assert target.read_bytes() == (NEW if done else OLD)
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("size", [1_000, 100_000])  # below and above the buffer of the file object
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, size):
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    with atomic_write(sys.argv[1]) as file:
        file.write(b"x" * int(sys.argv[2]))
except OSError as error:
    print(type(error).__name__, error.errno)
"""
    target = tmp_path / "model.safetensors"
    target.write_bytes(OLD)
    child = run_child(code, str(target), str(size))
    assert child.stdout.startswith("OSError"), child.stderr
    assert target.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_an_exception_in_the_body_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(OLD)
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), atomic_write(target) as file:
            file.write(NEW)
            raise error
    assert target.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_appears_only_when_complete(tmp_path):
    target = tmp_path / "file"
    with atomic_write(target) as file:
        file.write(NEW)
        file.flush()
        assert not target.exists()
        assert len(os.listdir(tmp_path)) == 1
    assert target.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["file"]


def test_the_disk_is_synchronised_before_and_after_the_renaming(tmp_path, monkeypatch):
    calls = []

    def record(name, function):
        def recorded(*args):
            kind = stat.S_IFMT(os.fstat(args[0]).st_mode) if name == "fsync" else None
            calls.append((name, {stat.S_IFREG: "file", stat.S_IFDIR: "folder", None: ""}[kind]))
            return function(*args)
        return recorded

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, record(name, getattr(os, name)))
    write(tmp_path / "file")
    assert calls == [("fsync", "file"), ("replace", ""), ("fsync", "folder")]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_of_a_new_file_are_those_of_open(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "ours")
        (tmp_path / "open").write_bytes(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "open").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_permissions_of_a_replaced_file_stay(tmp_path, mode):
    target = tmp_path / "file"
    target.write_bytes(OLD)
    target.chmod(mode)
    write(target)
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_bytes() == NEW


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / "folder" / "real", tmp_path / "link"
    real.write_bytes(OLD)
    link.symlink_to(real)
    write(link)
    assert link.is_symlink()
    assert real.read_bytes() == NEW


def test_a_relative_path_and_the_longest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("x" * 255)
    assert (tmp_path / ("x" * 255)).read_bytes() == NEW


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "folder")
    with pytest.raises(OSError, match="not a regular file"):
        write(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "absent" / "file")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_message_follows_the_grammar():
    text = message("conv2d 'stem'", "groups", "divide the input channels", 3, "source shape (8, 56, 56, 32)")
    assert text == ("conv2d 'stem': `groups` must divide the input channels. "
                    "Received groups=3 (source shape (8, 56, 56, 32)).")
    assert message("dense", "units", "be positive", 0) == "dense: `units` must be positive. Received units=0."


def test_message_shortens_values():
    import numpy as np

    assert "float64 array of shape (2, 3)" in message("dense", "source", "be float32", np.zeros((2, 3)))
    for value in ["x" * 10**6, list(range(10**6)), 10**4000, -10**5000, {i: i for i in range(10**5)}]:
        assert len(message("dense", "units", "be small", value)) < 400
    # Shapes of every rank that a layer may meet stay whole.
    assert "source_shape=(8, 7, 6, 5, 4, 3, 2, 1)." in message("a", "source_shape", "b", (8, 7, 6, 5, 4, 3, 2, 1))


def test_unknown_names_the_closest_and_all():
    names = ["MaxPool2D", "Conv2D", "Dense"]
    assert unknown("layer", "Conv2", names) == (
        "unknown layer 'Conv2'. Did you mean 'Conv2D'? Known: Conv2D, Dense, MaxPool2D.")
    assert "Did you mean 'MaxPool2D'?" in unknown("layer", "maxpool2d", names)
    assert unknown("layer", "Zzz", names) == "unknown layer 'Zzz'. Known: Conv2D, Dense, MaxPool2D."
    assert unknown("layer", 7, []) == "unknown layer 7. Known: none."
    assert len(unknown("layer", "x" * 10**6, names)) < 300


def test_exception_classes():
    assert issubclass(ModelFileError, (CnnextError,)) and issubclass(ModelFileError, ValueError)
    assert issubclass(KernelError, CnnextError) and issubclass(KernelError, RuntimeError)
    assert issubclass(PluginError, CnnextError) and not issubclass(CnnextError, ValueError)
