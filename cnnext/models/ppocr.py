"""Reading the text of a picture with PP-OCRv4: what stands around its three networks, in NumPy, SciPy and Pillow.

The networks are ONNX files of the package ``rapidocr-onnxruntime``; any engine with ONNX Runtime's ``run(None, feed)`` runs
them. Detection gives a probability per pixel, from which come boxes (Differentiable Binarization, Liao et al., 2020); the
second network tells upright lines from those upside down; the third reads a line from left to right, one distribution over
the characters every few pixels (CTC, Graves et al., 2006).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.data.packaged import package_file

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MODELS = {
    "detection": "ch_PP-OCRv4_det_infer.onnx",
    "direction": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "recognition": "ch_PP-OCRv4_rec_infer.onnx",
}

# Small pictures are enlarged, for the detection network was trained on larger text.
SHORT_SIDE, LONG_SIDE, MULTIPLE = 736, 2016, 32
PIXEL_IS_TEXT, BOX_IS_TEXT = 0.3, 0.6
SMALLEST_SIDE = 3  # pixels of the probability map
# Between 2 and 4 the letters of scikit-image's page.png are read right; below 2, the tails of g and q are cut off.
GROWTH = 3.0
LONG_LINE, POINTS = 4, 9  # a region so many times longer than high is followed in so many points

LINE_HEIGHT = 48
DIRECTION_WIDTH = 192
TURN_ABOVE = 0.9
# Every new shape of an input costs an engine some preparation, so lines share a few widths and batch sizes.
WIDTH_STEP, LARGEST_BATCH = 128, 8


def model_path(name: str) -> Path:
    """The file of the network ``"detection"``, ``"direction"`` or ``"recognition"``.

    Raises
    ------
    ModuleNotFoundError
        If ``rapidocr-onnxruntime`` is not installed.
    """
    return package_file("rapidocr_onnxruntime", "models", MODELS[name], what="the PP-OCRv4 models come",
                        install="--no-deps rapidocr-onnxruntime")


@dataclass(frozen=True)
class TextLine:
    """One line of text.

    Attributes
    ----------
    text : str
    confidence : float
        Mean probability of its characters.
    edges : ndarray, shape (2, points, 2)
        Where it stands in the picture: (x, y) along its upper edge and along its lower edge, as one reads it.
    """

    text: str
    confidence: float
    edges: np.ndarray


class TextReader:
    """Finds and reads the lines of text in a picture.

    Parameters
    ----------
    open_session : callable
        ``open_session(path)`` gives a session with the methods of ``cnnext.InferenceSession``.

    Raises
    ------
    ModuleNotFoundError
        If the models or ``onnx`` are not installed.
    """

    def __init__(self, open_session: Callable[[str], Any]):
        self._sessions = {name: open_session(str(model_path(name))) for name in MODELS}
        self._characters = charset(model_path("recognition"))

    def read(self, picture: Picture, least: float = 0.5) -> list[TextLine]:
        """All lines, from top to bottom and left to right.

        Parameters
        ----------
        picture : PIL.Image.Image
        least : float
            Lines with a lower confidence are dropped.
        """
        boxes = self.detect(picture)
        crops = [crop(picture, box) for box in boxes]
        for i in self.upside_down(crops):
            boxes[i], crops[i] = boxes[i][::-1, ::-1], crops[i].rotate(180)
        lines = [TextLine(text, confidence, box)
                 for box, (text, confidence) in zip(boxes, self.recognize(crops), strict=True)]
        return reading_order([line for line in lines if line.text and line.confidence >= least])

    def detect(self, picture: Picture) -> list[np.ndarray]:
        """The edges of the lines, each (2, points, 2) as in ``TextLine``; a line may turn out to be upside down."""
        probability = self._run("detection", detection_input(picture))[0, 0]
        scale = np.array(picture.size) / probability.shape[::-1]
        return [box * scale for box in boxes_of(probability)]

    def upside_down(self, crops: Sequence[Picture]) -> list[int]:
        """Which of the pictures of lines stand upside down.

        The network sees the middle of a long line: squeezed into its width, letters are no longer letters.
        """
        found: list[int] = []
        for part in batches(range(len(crops))):
            probabilities = self._run("direction",
                                      np.stack([line_input(middle(crops[i]), DIRECTION_WIDTH) for i in part]))
            found += [i for i, p in zip(part, probabilities, strict=True) if p[1] > TURN_ABOVE]
        return found

    def recognize(self, crops: Sequence[Picture]) -> list[tuple[str, float]]:
        """Text and confidence of each picture of a line."""
        results: list[tuple[str, float]] = [("", 0.0)] * len(crops)
        by_width: dict[int, list[int]] = {}
        for i, c in enumerate(crops):
            by_width.setdefault(-(-_width(c) // WIDTH_STEP) * WIDTH_STEP, []).append(i)
        for width, members in by_width.items():
            for part in batches(members):
                probabilities = self._run("recognition", np.stack([line_input(crops[i], width) for i in part]))
                for i, steps in zip(part, probabilities, strict=True):
                    results[i] = decode(steps, self._characters)
        return results

    def _run(self, name: str, x: np.ndarray) -> np.ndarray:
        session = self._sessions[name]
        return session.run(None, {session.get_inputs()[0].name: x})[0]


def charset(path: Path) -> list[str]:
    """The characters of the recognition network by class; class 0 is the blank of CTC, the last one the space."""
    try:
        import onnx
    except ImportError:
        raise ModuleNotFoundError("reading ONNX files needs onnx. Install it: pip install onnx", name="onnx") from None
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    return ["", *properties["character"].split("\n"), " "]


def batches(members: Iterable[int]) -> list[list[int]]:
    """The members in parts of 8, 4, 2, 1: no batch is padded, and few sizes occur."""
    rest, parts = list(members), []
    while rest:
        size = min(LARGEST_BATCH, 1 << len(rest).bit_length() - 1)
        parts.append(rest[:size])
        rest = rest[size:]
    return parts


# Detection


def detection_input(picture: Picture) -> np.ndarray:
    """The picture, (1, 3, H, W) float32 with H and W multiples of 32."""
    from PIL import Image

    short, long = min(picture.size), max(picture.size)
    scale = min(max(SHORT_SIDE / short, 1.0), LONG_SIDE / long)
    width, height = (max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in picture.size)
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(_scaled(resized).transpose(2, 0, 1)[np.newaxis])


def boxes_of(probability: np.ndarray) -> list[np.ndarray]:
    """The edges of the text in a map of probabilities, each (2, points, 2).

    A region of connected pixels is one line. The network is trained on regions that were shrunk, so what is found grows
    again by ``GROWTH * area / perimeter`` on all sides (Liao et al., "Real-time Scene Text Detection with Differentiable
    Binarization", 2020, equation 10). Long lines are followed where they bend, as they do on the page of an open book: a
    rectangle around one would hold parts of its neighbours.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(probability > PIXEL_IS_TEXT, structure=np.ones((3, 3)))
    boxes = []
    for i, window in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[window] == i
        if probability[window][inside].mean() < BOX_IS_TEXT:
            continue
        centre, along, across, width, height = smallest_rectangle(outline(inside))
        if min(width, height) < SMALLEST_SIDE:
            continue
        pixels = np.argwhere(inside)[:, ::-1] + 0.5 - centre
        thickness = len(pixels) / width if width > LONG_LINE * height else height
        growth = GROWTH * width * thickness / (2 * (width + thickness))
        places = np.linspace(-width / 2 - growth, width / 2 + growth, POINTS)
        bend = np.polynomial.Polynomial.fit(pixels @ along, pixels @ across, 2 if width > LONG_LINE * height else 0)
        middle = centre + [window[1].start, window[0].start] + places[:, None] * along + bend(places)[:, None] * across
        half = (thickness / 2 + growth) * across
        boxes.append(np.stack([middle - half, middle + half]))
    return boxes


def outline(inside: np.ndarray) -> np.ndarray:
    """(x, y) of the corners of the first and last pixel of every row of a mask that has pixels in all its rows."""
    rows = np.arange(len(inside))
    left, right = inside.argmax(axis=1), inside.shape[1] - inside[:, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([x, y], axis=1) for x in (left, right) for y in (rows, rows + 1)]).astype(float)


def smallest_rectangle(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """The rectangle of least area around points that do not lie on a line: one of its sides lies on their convex hull.

    Returns
    -------
    centre, along, across : ndarray, shape (2,)
        ``along`` is the unit vector in which one reads, ``across`` the one towards the next line.
    width, height : float
        The extents along them.
    """
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices]
    edges = np.roll(hull, -1, axis=0) - hull
    # A rectangle looks the same from all four sides: the angle between -45 and 45 degrees is the one that text has.
    angles = (np.arctan2(edges[:, 1], edges[:, 0]) + np.pi / 4) % (np.pi / 2) - np.pi / 4
    axes = np.stack([np.stack([np.cos(angles), np.sin(angles)], 1), np.stack([-np.sin(angles), np.cos(angles)], 1)], 1)
    places = hull @ axes.transpose(0, 2, 1)                           # (edges, points, 2)
    low, high = places.min(axis=1), places.max(axis=1)
    best = (high - low).prod(axis=1).argmin()
    along, across = axes[best]
    width, height = high[best] - low[best]
    centre = (low[best] + high[best]) / 2 @ axes[best]
    if height >= 1.5 * width:  # text that runs downwards
        return centre, across, -along, height, width
    return centre, along, across, width, height


def reading_order(lines: Sequence[TextLine]) -> list[TextLine]:
    """Lines from top to bottom; those whose centres differ by less than half a line's height, from left to right.

    Up and down are those of most of the text, not of the picture.
    """
    if not lines:
        return []
    lengths = np.array([np.linalg.norm(line.edges[0, -1] - line.edges[0, 0]) for line in lines])
    heights = np.array([np.linalg.norm(line.edges[1, 0] - line.edges[0, 0]) for line in lines])
    across = np.stack([(line.edges[1] - line.edges[0]).mean(axis=0) for line in lines])
    down = lengths @ across
    down /= max(np.linalg.norm(down), 1e-9)
    x, y = np.array([[down[1], -down[0]], down]) @ np.stack([line.edges.mean(axis=(0, 1)) for line in lines]).T
    rows: list[list[int]] = []
    for i in np.argsort(y, kind="stable"):
        if rows and y[i] - y[rows[-1][0]] < heights[rows[-1][0]] / 2:
            rows[-1].append(i)
        else:
            rows.append([i])
    return [lines[i] for row in rows for i in sorted(row, key=lambda i: x[i])]


# Lines


def crop(picture: Picture, edges: np.ndarray) -> Picture:
    """The line between two edges, straight and from left to right."""
    from PIL import Image

    top, bottom = edges
    width = max(round(np.linalg.norm(top[-1] - top[0])), POINTS)
    height = max(round(np.linalg.norm(bottom[0] - top[0])), 1)
    cuts = np.linspace(0, width, POINTS).round().astype(int)
    mesh = [((int(cuts[i]), 0, int(cuts[i + 1]), height),
             np.concatenate([top[i], bottom[i], bottom[i + 1], top[i + 1]]).tolist()) for i in range(POINTS - 1)]
    return picture.convert("RGB").transform((width, height), Image.Transform.MESH, mesh, Image.Resampling.BICUBIC)


def _width(line: Picture) -> int:
    """Its width when it is 48 pixels high."""
    return max(-(-LINE_HEIGHT * line.width // line.height), 1)


def middle(line: Picture) -> Picture:
    """The middle of a line, as much as fits into the direction network's input."""
    spare = max(line.width - line.height * DIRECTION_WIDTH // LINE_HEIGHT, 0)
    return line.crop((spare // 2, 0, line.width - (spare - spare // 2), line.height))


def line_input(line: Picture, width: int) -> np.ndarray:
    """The picture of a line as (3, 48, width) float32: scaled to the height, filled up on the right or squeezed."""
    from PIL import Image

    used = min(_width(line), width)
    x = np.zeros((3, LINE_HEIGHT, width), np.float32)
    x[:, :, :used] = _scaled(line.resize((used, LINE_HEIGHT), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return x


def _scaled(picture: Picture) -> np.ndarray:
    """Its pixels from -1 to 1, blue first as the networks were trained."""
    return np.asarray(picture, np.float32)[:, :, ::-1] / np.float32(127.5) - 1


def decode(steps: np.ndarray, characters: Sequence[str]) -> tuple[str, float]:
    """The best path of CTC: the likeliest class of each step, repetitions once, blanks left out.

    Parameters
    ----------
    steps : ndarray, shape (steps, classes)
        Probabilities; class 0 is the blank.

    Returns
    -------
    text : str
    confidence : float
        Mean probability of the classes that are in the text; 0 without text.
    """
    best = steps.argmax(axis=1)
    kept = np.flatnonzero((best != 0) & (best != np.concatenate([[0], best[:-1]])))
    if not len(kept):
        return "", 0.0
    text = "".join(characters[best[k]] for k in kept)
    return _narrow(text), float(steps[kept, best[kept]].mean())


def _narrow(text: str) -> str:
    """Full-width forms as their common ones, in a line that is not Chinese: the network mixes them up."""
    narrow = unicodedata.normalize("NFKC", text)
    return narrow if narrow.isascii() else text
