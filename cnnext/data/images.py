"""What the loaders of this package return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageData:
    """Labelled images, in a part to train on and a part to test with.

    Attributes
    ----------
    name : str
    x_train, x_test : float32 ndarray, shape (images, rows, columns, 1)
        Grey values between 0 and 1.
    y_train, y_test : int64 ndarray, shape (images,)
        Labels between 0 and ``classes - 1``.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1


def as_unit_images(pixels: np.ndarray) -> np.ndarray:
    """uint8 images (images, rows, columns) as float32 (images, rows, columns, 1) between 0 and 1."""
    return pixels[..., np.newaxis].astype(np.float32) / np.float32(255)


def with_shifted_copies(x: np.ndarray, y: np.ndarray, copies: int, farthest: int,
                        seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, and copies of each that are moved at random: where an object lies does not change what it is.

    Parameters
    ----------
    x : ndarray, shape (images, rows, columns, channels)
    y : ndarray, shape (images,)
    copies : int
        Of each image.
    farthest : int
        Pixels that a copy may move along each axis; what enters at a border is 0.
    seed : int

    Returns
    -------
    x, y : ndarray, shapes ((copies + 1) * images, ...)
        The images themselves first.
    """
    n, rows, columns, _ = x.shape
    border = (farthest, farthest)
    padded = np.pad(x, ((0, 0), border, border, (0, 0)))
    moves = np.random.default_rng(seed).integers(0, 2 * farthest + 1, (copies, n, 2))
    parts = [x]
    for offsets in moves:
        parts.append(np.stack([image[r : r + rows, c : c + columns] for image, (r, c) in zip(padded, offsets)]))
    return np.concatenate(parts), np.tile(y, copies + 1)
