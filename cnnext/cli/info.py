"""``cnnext info [MODEL]``: this installation, or what a model file holds and how it will run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cnnext.cli.arguments import positive, shape
from cnnext.errors import ModelFileError, message

if TYPE_CHECKING:
    from cnnext.session import InferenceSession


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", nargs="?", help="a model file (.safetensors or .onnx); without it: version, CPU, threads")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="of the plan that is shown")
    parser.add_argument("--shape", action="append", type=shape, metavar="N,N,...",
                        help="shape of an input for the plan, where the model leaves it open; once for each input")
    parser.add_argument("--view", action="store_true", help="show the graph in a browser; needs netron")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import cnnext as cx
    from cnnext.serialization import is_onnx

    if arguments.model is None:
        if arguments.view:
            raise ValueError(message("info", "--view", "come with a model file", arguments.view))
        cx.show_config()
        return
    if arguments.view:
        _view(arguments.model)
        return
    if is_onnx(arguments.model):
        _show_operators(arguments.model)
    net = cx.load(arguments.model)
    session = cx.InferenceSession(net)
    if not is_onnx(arguments.model):
        _show_head(arguments.model, net.name)
        for label, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
            _show_values(label, [(value.name, value.type, value.shape) for value in values])
    print()
    net.summary()
    print()
    shapes = _shapes(session, arguments)
    if shapes is None:
        print("The plan depends on the size of the input, which this model leaves open. Give it with --shape, for example "
              f"--shape {','.join(str(n or 224) for n in (arguments.batch_size, *session.get_inputs()[0].shape[1:]))}.")
        return
    plan = session.plan(*shapes)
    print(f"How it runs, {', '.join('x'.join(map(str, s)) for s in shapes)}:")
    print(plan.explain())


def _show_operators(path: str) -> None:
    """What the file says, before anything is built; an error with all operators that nothing installed computes."""
    from cnnext.onnx.importer import describe

    try:
        model = describe(path)
    except ModelFileError as error:
        raise ModelFileError(f"ONNX file {path!r}: {error}") from error
    _show_head(path, model.name or "onnx")
    for label, values in (("input", model.inputs), ("output", model.outputs)):
        _show_values(label, [(name, f"tensor({known[0].name.replace('float32', 'float')})" if known else "",
                              known[1] if known else None) for name, known in values.items()])
    versions = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in model.versions.items())
    print(f"operator sets, as converted  {versions}")
    print(f"operators  {', '.join(f'{name} {count}' for name, count in model.operators.items())}")
    if model.unsupported:
        print(f"parameters  {model.n_parameters:,}")
        raise ModelFileError(f"{path}: operators that nothing installed computes: {'; '.join(model.unsupported)}.")


def _show_head(path: str, name: str) -> None:
    print(f"{path}: {name}, {os.path.getsize(path):,} bytes")


def _show_values(label: str, values: Iterable[tuple[str, str, Sequence[int | None] | None]]) -> None:
    for name, kind, extents in values:
        text = "any rank" if extents is None else ", ".join("any" if n is None else str(n) for n in extents)
        print(f"{label:6}  {name}  ({text})  {kind}")


def _shapes(session: InferenceSession, arguments: argparse.Namespace) -> list[tuple[int, ...]] | None:
    """The shapes of the plan: as asked, or the model's own with the batch size; None where that leaves one open."""
    inputs = session.get_inputs()
    if arguments.shape is not None:
        fits = len(arguments.shape) == len(inputs) and all(
            len(s) == len(v.shape) and all(m in (None, n) for n, m in zip(s, v.shape, strict=True))
            for s, v in zip(arguments.shape, inputs, strict=True))
        if not fits:
            raise ValueError(message("info", "--shape", "be given once for each input and fit it", arguments.shape,
                                     ", ".join(f"{v.name} {v.shape}" for v in inputs)))
        return arguments.shape
    shapes: list[Any] = [(v.shape[:1][0] or arguments.batch_size, *v.shape[1:]) if v.shape else () for v in inputs]
    return None if any(n is None for s in shapes for n in s) else shapes


def _view(path: str) -> None:
    try:
        import netron
    except ImportError:
        raise ImportError("showing a graph needs netron. Type: pip install 'cnnext[graph-view]'") from None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such model file: {path!r}")
    netron.start(path)
    print("Ctrl-C ends the viewer.")
    netron.wait()
