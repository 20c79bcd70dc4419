"""The command line as a whole: help, wrong arguments, errors, what it imports."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cnnext.cli import COMMANDS, info, main
from cnnext.errors import ModelFileError


def test_without_a_command_it_prints_help(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert COMMANDS[name][1:] in " ".join(capsys.readouterr().out.split())


def test_version(capsys):
    import cnnext

    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"cnnext {cnnext.__version__}\n"


@pytest.mark.parametrize("arguments", [["fly"], ["info", "--batch-size", "0"], ["demo", "--seed", "-1"],
                                       ["run", "m.safetensors", "--input", "x.npy", "--mean", "a"], ["demo", "letters"]])
def test_wrong_arguments_leave_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_an_error_is_one_line(tmp_path, capsys):
    missing = str(tmp_path / "missing.safetensors")
    assert main(["info", missing]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("cnnext info: ") and missing in captured.err
    assert captured.err.count("\n") == 1


def test_traceback_on_demand(tmp_path):
    with pytest.raises(ModelFileError):
        main(["--traceback", "info", str(tmp_path / "missing.safetensors")])


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(info, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_ctrl_c(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupted)
    assert main(["info"]) == 130
    assert "Stopped" in capsys.readouterr().err


def test_help_imports_neither_numpy_nor_native_modules():
    program = ("import sys\nfrom cnnext.cli import main\nmain([])\n"
               "assert not {'numpy', 'cnnext._native', 'cnnext.cli.demo', 'cnnext.cli.demo_digits'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(os.name == "nt", reason="pipes break differently there")
def test_a_reader_that_goes_away():
    read, write = os.pipe()
    os.close(read)
    program = "import sys; from cnnext.cli import main; sys.exit(main(['info']))"
    result = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (1, "")
