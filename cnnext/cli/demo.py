"""``cnnext demo [digits | text]``: train a network on real digits, or run trained ONNX models on a page of text."""

from __future__ import annotations

import argparse
from types import ModuleType

from cnnext.cli import arguments as types
from cnnext.cli import demo_digits, demo_text
from cnnext.errors import message

DEMOS = {"digits": demo_digits, "text": demo_text}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", nargs="?", choices=tuple(DEMOS), default="digits", help="which demo")
    parser.add_argument("--threads", type=types.positive, metavar="N", help="workers; all there are by default")
    parser.add_argument("--output", metavar="FOLDER", default="demo-output", help="where the files go")
    for name, demo in DEMOS.items():
        demo.add_arguments(parser.add_argument_group(f"cnnext demo {name}"))


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    for name, demo in DEMOS.items():
        if name != arguments.what:
            _refuse(name, demo, arguments)
    DEMOS[arguments.what].run(arguments)


def _refuse(name: str, demo: ModuleType, arguments: argparse.Namespace) -> None:
    """An option of the other demo would be ignored: say so."""
    parser = argparse.ArgumentParser(add_help=False)
    demo.add_arguments(parser)
    for key, default in vars(parser.parse_args([])).items():
        value = getattr(arguments, key)
        if value != default:
            raise ValueError(message(f"demo {arguments.what}", f"--{key.replace('_', '-')}",
                                     f"be left out, it belongs to `cnnext demo {name}`", value))
