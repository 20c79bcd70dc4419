"""The command line: ``cnnext COMMAND``. Each command is a module of this package, imported when it is chosen.

A command's module gives ``add_arguments(parser)`` and ``run(arguments)``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cnnext.errors import CnnextError

COMMANDS = {
    "bench": "time a model, and other engines on it",
    "demo": "train LeNet-5 on handwritten digits, or read the text of a page",
    "info": "show this installation, or a model file",
    "plugins": "list, check and write layer plugins",
    "run": "run a model file on an array or a picture",
    "train": "train a network on pictures",
}

# What a user's input or surroundings cause: one line is enough. Anything else is a bug and keeps its traceback.
EXPECTED = (CnnextError, ValueError, TypeError, OSError, ImportError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0; 1 after an error that was printed; 130 after Ctrl-C. Wrong arguments leave through ``SystemExit(2)``.
    """
    arguments_given = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(next((a for a in arguments_given if not a.startswith("-")), ""))
    arguments = parser.parse_args(arguments_given)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        import_module(f"cnnext.cli.{arguments.command}").run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EXPECTED as error:
        if arguments.traceback:
            raise
        print(f"cnnext {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser(command: str) -> argparse.ArgumentParser:
    """The parser, with the arguments of one command: the others' modules are not imported."""
    parser = argparse.ArgumentParser(prog="cnnext", description="Convolutional networks on CPUs.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error comes from")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".",
                                  formatter_class=_Help)
        if name == command:
            import_module(f"cnnext.cli.{name}").add_arguments(sub)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but for options that are off or say theirs in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default or action.default == 0 and action.default is not False \
            else action.help


class _Version(argparse.Action):
    """``--version``, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import cnnext

        print(f"cnnext {cnnext.__version__}")
        parser.exit()
