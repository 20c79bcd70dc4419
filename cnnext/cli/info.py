"""``cnnext info [MODEL]``: this installation, or what a model file holds and how it will run."""

from __future__ import annotations

import argparse
import os

from cnnext.cli.arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", nargs="?", help="a model file (.safetensors); without it: version, CPU, threads")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="of the plan that is shown")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import cnnext as cx

    if arguments.model is None:
        cx.show_config()
        return
    net = cx.load(arguments.model)
    session = cx.InferenceSession(net)
    print(f"{arguments.model}: {net.name}, {os.path.getsize(arguments.model):,} bytes")
    for label, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            shape = ", ".join("any" if n is None else str(n) for n in value.shape)
            print(f"{label:6}  {value.name}  ({shape})  {value.type}")
    print()
    net.summary()
    print()
    if any(None in value.shape[1:] for value in session.get_inputs()):
        print("The plan depends on the size of the input, which this model leaves open.")
        return
    print(f"How it runs, batch size {arguments.batch_size}:")
    print(net.plan(arguments.batch_size).explain())
