"""``cnnext run MODEL --input FILE``: a model file on an array or a picture."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.cli.arguments import numbers, positive
from cnnext.errors import message, unknown

if TYPE_CHECKING:
    from cnnext.session import InferenceSession, NodeArg

COLOUR_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS_FIRST = {"nhwc": False, "channels_last": False, "nchw": True, "channels_first": True}
DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model file (.safetensors or .onnx)")
    parser.add_argument("--input", action="append", nargs="+", required=True, metavar="[NAME=]FILE",
                        help="an array (.npy, or .npz with arrays named like the inputs), with or without the batch axis, "
                             "or a picture, which is resized and scaled to 0..1; several files are one batch; once for each "
                             "input of the model")
    parser.add_argument("--output", "--save", metavar="FILE.npz", help="write all outputs to this file")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="how many classes to print")
    parser.add_argument("--mean", type=numbers, metavar="M[,M...]", help="subtracted from a picture, per channel")
    parser.add_argument("--std", type=numbers, metavar="S[,S...]", help="a picture is divided by it, per channel")
    parser.add_argument("--layout", choices=tuple(CHANNELS_FIRST),
                        help="how the model wants a picture (default: as its input's shape says)")
    parser.add_argument("--threads", type=positive, metavar="N", help="workers; all there are by default")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import cnnext as cx

    session = cx.InferenceSession(arguments.model, num_threads=arguments.threads)
    matched = _match(session, arguments.input)
    outputs = _run_batches(session, {node.name: _load(files, node, arguments) for node, files in matched})
    files = [Path(file).name for file in matched[0][1]] if len(matched) == 1 else []
    for name, array in outputs.items():
        _show(name, array, arguments.top, files)
    if arguments.output:
        from cnnext._files import atomic_write

        with atomic_write(arguments.output) as file:
            np.savez(file, **outputs)
        print(f"wrote {arguments.output}")


def _run_batches(session: InferenceSession, feed: dict[str, np.ndarray]) -> dict[str, Any]:
    """All outputs by name. A model that takes one example at a time gets them one after another."""
    inputs = session.get_inputs()
    sizes = {feed[node.name].shape[0] for node in inputs if node.shape and feed[node.name].ndim}
    one_by_one = all(node.shape[:1] == (1,) for node in inputs) and len(sizes) == 1 and sizes != {1}
    feeds = [{k: x[i : i + 1] for k, x in feed.items()} for i in range(sizes.pop())] if one_by_one else [feed]
    results = [session.run(None, one) for one in feeds]
    joined = results[0] if len(results) == 1 else [np.concatenate(arrays) for arrays in zip(*results, strict=True)]
    return dict(zip((v.name for v in session.get_outputs()), joined, strict=True))


def _match(session: InferenceSession, groups: Sequence[Sequence[str]]) -> list[tuple[NodeArg, list[str]]]:
    """Which files go to which input: by name, or in order; the arrays of one .npz go to the inputs of their names."""
    inputs = session.get_inputs()
    known = {node.name: node for node in inputs}
    if len(groups) == 1 and len(groups[0]) == 1 and groups[0][0].endswith(".npz") and len(inputs) > 1:
        return [(node, [groups[0][0]]) for node in inputs]
    if len(groups) != len(inputs):
        raise ValueError(message("run", "--input", f"be given once for each input: {', '.join(known)}", list(groups)))
    pairs: list[tuple[NodeArg, list[str]]] = []
    for node, (text, *more) in zip(inputs, groups, strict=True):
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            pairs.append((node, [text, *more]))
        elif name in known:
            pairs.append((known[name], [path, *more]))
        else:
            raise ValueError("run: " + unknown("input", name, known))
    if len({node.name for node, _ in pairs}) != len(inputs):
        raise ValueError(message("run", "--input", "name each input once", list(groups)))
    return pairs


def _load(files: Sequence[str], node: NodeArg, arguments: argparse.Namespace) -> np.ndarray:
    """The files of one input as one array of its type, the examples one behind the other."""
    parts = []
    for path in files:
        array = _load_array(path, node) if path.endswith((".npy", ".npz")) else _load_picture(path, node, arguments)
        if array.ndim == len(node.shape) - 1:
            array = array[np.newaxis]
        if array.dtype.kind not in "fiub":
            raise TypeError(message(f"file {path!r}", "dtype", "be numbers", str(array.dtype)))
        parts.append(array)
    if len({part.shape[1:] for part in parts}) > 1:
        raise ValueError(message("run", "--input", "be files of one shape to form a batch", [p.shape for p in parts]))
    dtype = np.dtype(DTYPES.get(node.type, node.type[len("tensor(") : -1]))
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=dtype)


def _load_array(path: str, node: NodeArg) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"run: file {path!r} cannot be read as an array: {error}") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as archive:
        if node.name in archive:
            return archive[node.name]
        if len(archive.files) == 1:
            return archive[archive.files[0]]
        raise ValueError(f"run: file {path!r}: " + unknown("array", node.name, archive.files))


def _channels_first(node: NodeArg, arguments: argparse.Namespace) -> bool:
    """As asked; else channels are where the shape has 1, 3 or 4, and last where that leaves a doubt."""
    if arguments.layout is not None:
        return CHANNELS_FIRST[arguments.layout]
    return node.shape[1] in COLOUR_MODES and node.shape[3] not in COLOUR_MODES


def _load_picture(path: str, node: NodeArg, arguments: argparse.Namespace) -> np.ndarray:
    """A picture as float32 (rows, columns, channels), or (channels, rows, columns), the size that the input wants."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("reading pictures needs pillow. Install it: pip install pillow") from None
    if len(node.shape) != 4:
        raise ValueError(message("run", "--input", f"be a .npy file for the input {node.name!r} {node.shape}", path))
    first = _channels_first(node, arguments)
    channels, rows, columns = node.shape[1:] if first else (node.shape[3], *node.shape[1:3])
    if channels not in COLOUR_MODES:
        raise ValueError(message("run", "--layout", "fit an input with 1, 3 or 4 channels", arguments.layout,
                                 f"input shape {node.shape}"))
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


def _show(name: str, array: np.ndarray, top: int, files: Sequence[str]) -> None:
    """The best classes of each row where the output is one row per example, else its range."""
    extent = f"  min {array.min():.6g}  max {array.max():.6g}  mean {array.mean():.6g}" if array.size else "  empty"
    print(f"{name}  shape {array.shape}{extent}")
    if array.ndim != 2 or array.shape[1] < 2:
        return
    labels = files if len(files) == len(array) > 1 else [str(i) for i in range(len(array))]
    for label, row in zip(labels, array, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        print(f"  {label}: " + "  ".join(f"class {k} {row[k]:.4f}" for k in best))
