"""``cnnext demo text``: read the text of a page with PP-OCRv4, beside ONNX Runtime where that is installed."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from cnnext.models.ppocr import TextLine, TextReader

ROUNDS = 5
ENLARGE_BELOW = 1200  # pixels of width, in the picture that is drawn
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the demo's arguments."""
    parser.add_argument("--image", metavar="FILE",
                        help="the picture to read; by default a photographed page that comes with scikit-image")


def run(arguments: argparse.Namespace) -> None:
    """Run the demo."""
    from cnnext.models.ppocr import TextReader
    from cnnext.threads import resolve_threads

    threads = resolve_threads(arguments.threads)
    picture, path = _open(arguments.image)
    print(f"Picture: {path.name}, {picture.width} x {picture.height} pixels.")
    readers = {"cnnext": TextReader(_cnnext(threads))}
    if find_spec("onnxruntime") is not None:
        readers["ONNX Runtime"] = TextReader(_onnxruntime(threads))
    start = time.perf_counter()
    lines = readers["cnnext"].read(picture)
    first = time.perf_counter() - start
    print(f"Networks: PP-OCRv4 detection, direction, recognition. {threads} thread(s). The first time it takes "
          f"{first:.2f} s, plans included.\n")
    _print(lines)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    drawing = folder / f"{path.stem}-text.png"
    draw(picture, lines).save(drawing)
    print(f"\nDrew {drawing}\n")
    _measure(readers, picture, lines)


def _open(image: str | None) -> tuple[Picture, Path]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ModuleNotFoundError("reading pictures needs pillow. Install it: pip install pillow", name="PIL") from None
    if image is None:
        from cnnext.data.packaged import photo

        path = photo("page.png")
    else:
        path = Path(image)
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB"), path


def _cnnext(threads: int) -> Any:
    import cnnext as cx

    return lambda path: cx.InferenceSession(path, num_threads=threads)


def _onnxruntime(threads: int) -> Any:
    """Its workers must not spin between runs, for the engines take turns on the same cores."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return lambda path: ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _print(lines: list[TextLine]) -> None:
    if not lines:
        print("No text found.")
        return
    print("sure  text")
    for line in lines:
        print(f"{line.confidence:.2f}  {line.text}")


def _measure(readers: dict[str, TextReader], picture: Picture, lines: list[TextLine]) -> None:
    """Whole pages, picture in, text out; the engines in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for i in range(ROUNDS + 1):
        for name, reader in readers.items():
            start = time.perf_counter()
            found = reader.read(picture)
            if i:  # the first round makes the plans
                seconds[name].append(time.perf_counter() - start)
            elif [line.text for line in found] != [line.text for line in lines]:
                print(f"{name} reads otherwise: {[line.text for line in found]}")
    print(f"Time to read it, best of {ROUNDS} (median):")
    for name, times in seconds.items():
        print(f"  {name:12}  {1e3 * min(times):6.0f} ms  ({1e3 * np.median(times):.0f} ms)")
    if len(readers) == 1:
        print("  (pip install onnxruntime, and its time stands beside this one)")


def draw(picture: Picture, lines: list[TextLine]) -> Picture:
    """The picture with the lines outlined, and beside it, at the same places, what was read."""
    from PIL import Image, ImageDraw, ImageFont

    scale = max(round(ENLARGE_BELOW / picture.width), 1)
    width, height = picture.width * scale, picture.height * scale
    canvas = Image.new("RGB", (2 * width, height), "white")
    canvas.paste(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    pen = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        top, bottom = line.edges * scale
        for shift in (0, width):
            outline = np.concatenate([top, bottom[::-1], top[:1]]) + [shift, 0]
            pen.line([tuple(p) for p in outline.tolist()], fill=colour, width=2 if shift == 0 else 1)
        length, line_height = (np.linalg.norm(v) for v in (top[-1] - top[0], bottom[0] - top[0]))
        font = ImageFont.load_default(max(0.7 * line_height, 8))
        font = ImageFont.load_default(max(font.size * min(length / max(pen.textlength(line.text, font), 1), 1), 8))
        x, y = (top[0] + bottom[0]) / 2 + [width, 0]
        pen.text((x + 2, y), line.text, fill="black", font=font, anchor="lm")
    return canvas
