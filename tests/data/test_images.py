"""Copies of images that are moved at random."""

from __future__ import annotations

import numpy as np
import pytest

from cnnext.data import with_shifted_copies


def shift(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved pixel by pixel; zeros enter."""
    moved = np.zeros_like(image)
    for r, c in np.ndindex(image.shape[:2]):
        if 0 <= r - down < image.shape[0] and 0 <= c - right < image.shape[1]:
            moved[r, c] = image[r - down, c - right]
    return moved


@pytest.mark.parametrize(("copies", "farthest"), [(0, 2), (1, 0), (3, 1), (2, 2)])
def test_each_copy_is_a_shift(copies, farthest):
    x, y = np.random.default_rng(0).random((9, 6, 5, 2), np.float32), np.arange(9)
    more, labels = with_shifted_copies(x, y, copies, farthest, seed=3)
    assert more.shape == ((copies + 1) * 9, 6, 5, 2) and more.dtype == np.float32
    np.testing.assert_array_equal(more[:9], x)
    np.testing.assert_array_equal(labels, np.tile(y, copies + 1))
    reach = range(-farthest, farthest + 1)
    found = set()
    for image, label in zip(more[9:], labels[9:]):
        moves = {(d, r) for d in reach for r in reach if np.array_equal(shift(x[label], d, r), image)}
        assert len(moves) == 1
        found |= moves
    if copies and farthest:
        assert len(found) > 4


def test_the_seed_decides():
    x, y = np.random.default_rng(0).random((20, 6, 6, 1), np.float32), np.arange(20)
    first, again, other = (with_shifted_copies(x, y, 1, 2, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
