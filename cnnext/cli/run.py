"""``cnnext run MODEL --input FILE``: a model file on an array or a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnext.cli.arguments import numbers, positive
from cnnext.errors import message, unknown

if TYPE_CHECKING:
    from cnnext.session import InferenceSession, NodeArg

COLOUR_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model file (.safetensors)")
    parser.add_argument("--input", action="append", required=True, metavar="[NAME=]FILE",
                        help="an array (.npy), with or without the batch axis, or a picture, which is resized and scaled "
                             "to 0..1; once for each input of the model")
    parser.add_argument("--output", metavar="FILE.npz", help="write all outputs to this file")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="how many classes to print")
    parser.add_argument("--mean", type=numbers, metavar="M[,M...]", help="subtracted from a picture, per channel")
    parser.add_argument("--std", type=numbers, metavar="S[,S...]", help="a picture is divided by it, per channel")
    parser.add_argument("--layout", choices=("channels_last", "channels_first"), default="channels_last",
                        help="how the model wants a picture")
    parser.add_argument("--threads", type=positive, metavar="N", help="workers; all there are by default")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import cnnext as cx

    session = cx.InferenceSession(arguments.model, num_threads=arguments.threads)
    feed = {node.name: _load(path, node, arguments) for node, path in _match(session, arguments.input)}
    outputs = dict(zip((v.name for v in session.get_outputs()), session.run(None, feed), strict=True))
    for name, array in outputs.items():
        _show(name, array, arguments.top)
    if arguments.output:
        from cnnext._files import atomic_write

        with atomic_write(arguments.output) as file:
            np.savez(file, **outputs)
        print(f"wrote {arguments.output}")


def _match(session: InferenceSession, files: Sequence[str]) -> list[tuple[NodeArg, str]]:
    """Which file goes to which input: by name, or in order."""
    inputs = session.get_inputs()
    known = {node.name: node for node in inputs}
    if len(files) != len(inputs):
        raise ValueError(message("run", "--input", f"be given once for each input: {', '.join(known)}", list(files)))
    pairs: list[tuple[NodeArg, str]] = []
    for node, text in zip(inputs, files, strict=True):
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            pairs.append((node, text))
        elif name in known:
            pairs.append((known[name], path))
        else:
            raise ValueError("run: " + unknown("input", name, known))
    if len({node.name for node, _ in pairs}) != len(inputs):
        raise ValueError(message("run", "--input", "name each input once", list(files)))
    return pairs


def _load(path: str, node: NodeArg, arguments: argparse.Namespace) -> np.ndarray:
    if path.endswith(".npy"):
        array = np.load(path, allow_pickle=False)
    else:
        array = _load_picture(path, node, arguments)
    if array.ndim == len(node.shape) - 1:
        array = array[np.newaxis]
    if array.dtype.kind not in "fiub":
        raise TypeError(message(f"file {path!r}", "dtype", "be numbers", str(array.dtype)))
    return np.ascontiguousarray(array, dtype=np.float32)


def _load_picture(path: str, node: NodeArg, arguments: argparse.Namespace) -> np.ndarray:
    """A picture as float32 (rows, columns, channels), or (channels, rows, columns), the size that the input wants."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("reading pictures needs pillow. Install it: pip install pillow") from None
    if len(node.shape) != 4:
        raise ValueError(message("run", "--input", f"be a .npy file for the input {node.name!r} {node.shape}", path))
    first = arguments.layout == "channels_first"
    channels, rows, columns = node.shape[1:] if first else (node.shape[3], *node.shape[1:3])
    if channels not in COLOUR_MODES:
        hint = "; is it a channels_first model?" if not first and node.shape[1] in COLOUR_MODES else ""
        raise ValueError(message("run", "--layout", "fit an input with 1, 3 or 4 channels", arguments.layout,
                                 f"input shape {node.shape}{hint}"))
    with Image.open(path) as picture:
        size = (columns or picture.width, rows or picture.height)
        pixels = picture.convert(COLOUR_MODES[channels]).resize(size, Image.Resampling.BILINEAR)
    array = np.asarray(pixels, np.float32).reshape(size[1], size[0], channels) / np.float32(255)
    array = (array - _per_channel("--mean", arguments.mean, 0.0, channels)) / _per_channel(
        "--std", arguments.std, 1.0, channels)
    return array.transpose(2, 0, 1) if first else array


def _per_channel(name: str, values: list[float] | None, default: float, channels: int) -> np.ndarray:
    array = np.asarray([default] if values is None else values, np.float32)
    if array.size not in (1, channels) or not np.isfinite(array).all():
        raise ValueError(message("run", name, f"be 1 or {channels} finite number(s)", values))
    if name == "--std" and not (array > 0).all():
        raise ValueError(message("run", name, "be greater than 0", values))
    return array


def _show(name: str, array: np.ndarray, top: int) -> None:
    """The best classes of each row where the output is one row per example, else its range."""
    print(f"{name}  shape {array.shape}  min {array.min():.6g}  max {array.max():.6g}  mean {array.mean():.6g}")
    if array.ndim != 2 or array.shape[1] < 2:
        return
    for i, row in enumerate(array):
        best = np.argsort(-row, kind="stable")[:top]
        print(f"  {i}: " + "  ".join(f"class {k} {row[k]:.4f}" for k in best))
