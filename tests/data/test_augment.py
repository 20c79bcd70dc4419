"""Augmentations: each does what it says to the pixels, draws its whole range, and leaves the given image alone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cnnext.data import (
    ColorJitter,
    CutMix,
    Cutout,
    Mixup,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
)
from tests.data.test_images import shift

STEPS = [RandomHorizontalFlip(), RandomShift(3), RandomResizedCrop(0.3), RandomRotation(40.0), Cutout(3),
         ColorJitter(0.4, 0.4, 0.4)]


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, np.float32)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("shape", [(9, 7, 3), (8, 8, 1), (1, 1, 3), (2, 5, 4)])
def test_shape_dtype_and_seed(step, shape):
    given = image(*shape)
    given.flags.writeable = False
    first, again = (step(given, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == shape and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_other_draws_give_other_images(step):
    random = np.random.default_rng(0)
    assert len({step(image(12, 12, 3), random).tobytes() for _ in range(20)}) >= (2 if step == RandomHorizontalFlip() else 9)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_flip(probability):
    given, random = image(4, 5, 3), np.random.default_rng(0)
    results = [RandomHorizontalFlip(probability)(given, random) for _ in range(400)]
    flipped = [np.array_equal(result, given[:, ::-1]) for result in results]
    assert all(f or np.array_equal(result, given) for f, result in zip(flipped, results))
    assert abs(np.mean(flipped) - probability) < 0.1


@pytest.mark.parametrize("farthest", [0, 1, 2, 9])
def test_shift(farthest):
    given, random = image(6, 5, 2), np.random.default_rng(0)
    reach = range(-farthest, farthest + 1)
    moved = {shift(given, down, right).tobytes(): (down, right) for down in reach for right in reach}
    found = {moved[RandomShift(farthest)(given, random).tobytes()] for _ in range(600)}
    assert len(found) >= min(len(reach) ** 2, 80)


def test_cutout():
    given, random = image(6, 5, 2) + 1, np.random.default_rng(0)
    shapes = set()
    for _ in range(200):
        result = Cutout(3)(given, random)
        hole = (result == 0).all(-1)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[np.ix_(rows, columns)].all() and hole.sum() == len(rows) * len(columns)
        assert np.array_equal(np.diff(rows), np.ones(len(rows) - 1)) and np.array_equal(result[~hole], given[~hole])
        shapes.add((len(rows), len(columns)))
    assert shapes == {(r, c) for r in (2, 3) for c in (2, 3)}


def test_rotation_by_a_known_angle():
    class Quarter:
        def uniform(self, low, high):
            assert (low, high) == (pytest.approx(-90), pytest.approx(90))
            return high

    given = image(6, 6, 2)
    np.testing.assert_allclose(RandomRotation(90)(given, Quarter()), np.rot90(given), atol=1e-5)


def test_rotation_by_nothing_and_zeros_from_outside():
    random = np.random.default_rng(0)
    np.testing.assert_array_equal(RandomRotation(0)(image(7, 5, 3), random), image(7, 5, 3))
    turned = [RandomRotation(45)(np.ones((21, 21, 1), np.float32), random) for _ in range(30)]
    assert min(t[0, 0, 0] for t in turned) == 0 and all(t[10, 10, 0] == pytest.approx(1) for t in turned)


def test_resized_crop_samples_a_plane_exactly():
    rows, columns = np.mgrid[:16, :12].astype(np.float32)
    random = np.random.default_rng(0)
    areas = []
    for _ in range(100):
        result = RandomResizedCrop(0.2, 2)(np.stack([rows, columns], -1), random)[2:-2, 2:-2]
        down, right = np.diff(result[..., 0], axis=0), np.diff(result[..., 1], axis=1)
        np.testing.assert_allclose(down, down[0, 0], atol=1e-4)      # one step from row to row: a plane stays a plane
        np.testing.assert_allclose(right, right[0, 0], atol=1e-4)
        assert 0 < down[0, 0] <= 1.0001 and 0 < right[0, 0] <= 1.0001
        areas.append(down[0, 0] * right[0, 0])
    assert min(areas) < 0.35 and max(areas) > 0.8 and min(areas) >= 0.1
    np.testing.assert_array_equal(RandomResizedCrop(1.0, 1.0)(image(7, 5, 3), random), image(7, 5, 3))


def test_colour():
    class Most:
        def uniform(self, low, high, n):
            return np.full(n, high, float)

    given = image(4, 5, 3)
    luma = given @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = luma.mean()
    np.testing.assert_allclose(ColorJitter(brightness=0.5)(given, Most()), 1.5 * given, rtol=1e-5)
    np.testing.assert_allclose(ColorJitter(contrast=0.5)(given, Most()), mean + 1.5 * (given - mean), atol=1e-5)
    grey = luma[..., np.newaxis]
    np.testing.assert_allclose(ColorJitter(saturation=0.5)(given, Most()), grey + 1.5 * (given - grey), atol=1e-5)
    one_by_one = given
    for step in (ColorJitter(brightness=0.5), ColorJitter(contrast=0.5), ColorJitter(saturation=0.5)):
        one_by_one = step(one_by_one, Most())
    np.testing.assert_allclose(ColorJitter(0.5, 0.5, 0.5)(given, Most()), one_by_one, atol=1e-5)
    single = given[..., :1]
    np.testing.assert_allclose(ColorJitter(0.5, 0.5, 0.5)(single, Most()), 2.25 * single - 0.75 * single.mean(), atol=1e-5)
    np.testing.assert_allclose(ColorJitter(saturation=0.5)(given[..., :1], Most()), given[..., :1], atol=1e-6)


def batch(n: int, shape: tuple[int, ...] = (8, 6, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Images that hold the number of their class, targets as rows."""
    values = np.arange(1, n + 1, dtype=np.float32)
    return np.broadcast_to(values.reshape(n, *[1] * len(shape)), (n, *shape)).copy(), np.eye(n, dtype=np.float32)


@pytest.mark.parametrize("mix", [Mixup(0.4), CutMix(1.0)])
@pytest.mark.parametrize("n", [1, 2, 33])
def test_targets_are_mixed_as_the_images_are(mix, n):
    x, y = batch(n)
    mix(x, y, np.random.default_rng(0))
    values = np.arange(1, n + 1)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), y @ values, rtol=1e-5)
    assert ((y > 0).sum(axis=1) <= 2).all()
    again = batch(n)
    mix(*again, np.random.default_rng(0))
    assert np.array_equal(again[0], x) and np.array_equal(again[1], y)
    if n == 1:
        assert (x == 1).all() and (y == 1).all()


def test_mixup_blends_whole_images_by_shares_of_a_beta_distribution():
    x, y = batch(4000, (1,))
    Mixup(0.3)(x, y, np.random.default_rng(1))
    share = np.diag(y)
    assert np.ptp(x.reshape(4000, -1), axis=1).max() == 0
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.var() == pytest.approx(0.25 / (2 * 0.3 + 1), rel=0.05)      # of Beta(a, a)


def test_cutmix_pastes_a_rectangle_from_the_same_place():
    n, rows, columns = 300, 9, 7
    places = np.arange(rows * columns, dtype=np.float32).reshape(1, rows, columns, 1)
    x = np.tile(places, (n, 1, 1, 1)) + 1000 * np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    y = np.eye(n, dtype=np.float32)
    CutMix()(x, y, np.random.default_rng(0))
    owner, place = np.divmod(x[..., 0], 1000)
    np.testing.assert_array_equal(place, np.broadcast_to(places[..., 0], place.shape))
    pasted = owner != np.arange(n).reshape(n, 1, 1)
    for i in np.flatnonzero(pasted.any(axis=(1, 2))):
        r, c = (np.flatnonzero(pasted[i].any(axis=axis)) for axis in (1, 0))
        assert pasted[i, r[0] : r[-1] + 1, c[0] : c[-1] + 1].all() and len(np.unique(owner[i][pasted[i]])) == 1
    np.testing.assert_allclose(1 - np.diag(y), pasted.mean(axis=(1, 2)), atol=1e-6)
    assert pasted[:, 0].any() and pasted[:, -1].any() and pasted[:, :, 0].any() and pasted[:, :, -1].any()


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Mixup(0), "Mixup: `alpha` must be greater than 0"),
    (lambda: CutMix(-1), "CutMix: `alpha` must be greater than 0"),
    (lambda: RandomHorizontalFlip(1.5), "RandomHorizontalFlip: `probability` must be at most 1."),
    (lambda: RandomShift(-1), "RandomShift: `farthest` must be at least 0."),
    (lambda: RandomShift(1.5), "RandomShift: `farthest` must be a whole number."),
    (lambda: RandomResizedCrop(0), "RandomResizedCrop: `smallest` must be greater than 0."),
    (lambda: RandomResizedCrop(aspect=0.5), "RandomResizedCrop: `aspect` must be at least 1."),
    (lambda: RandomRotation(float("nan")), "RandomRotation: `degrees` must be a finite number."),
    (lambda: ColorJitter(contrast=-0.1), "ColorJitter: `contrast` must be at least 0."),
    (lambda: Cutout(0), "Cutout: `size` must be at least 1."),
])
def test_invalid(make, words):
    with pytest.raises(ValueError, match=re.escape(words[:-1])):
        make()
