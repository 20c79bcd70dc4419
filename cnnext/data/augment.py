"""Augmentation: changes of an image that do not change what it shows, and mixtures of images, drawn at random.

A change is a frozen description that is called with one image, float32 (rows, columns, channels), and a generator; it
returns an image of the same shape and leaves the given one as it is. What comes in from beyond a border is 0.

A mixture (`Mixup`, `CutMix`) is called with the examples of a batch, their targets as rows, and a generator, and changes
both in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnext.layers.attributes import as_int, as_number

Image = np.ndarray
Augmentation = Callable[[Image, np.random.Generator], Image]
Mixture = Callable[[np.ndarray, np.ndarray, np.random.Generator], None]

AFFINE, BILINEAR = 0, 2  # PIL.Image.Transform and Resampling, which is imported only where it is needed
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Left and right exchanged.

    Parameters
    ----------
    probability : float
        In [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        _number(self, "probability", minimum=0, maximum=1)

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        return image[:, ::-1] if random.random() < self.probability else image


@dataclass(frozen=True)
class RandomShift:
    """Moved by whole pixels, up to ``farthest`` along each axis: the crop of a padded image of He et al. 2016.

    Parameters
    ----------
    farthest : int
        At least 0.
    """

    farthest: int

    def __post_init__(self) -> None:
        as_int("RandomShift", "farthest", self.farthest, minimum=0)

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        moved = np.zeros_like(image)
        down, right = random.integers(-self.farthest, self.farthest + 1, 2).tolist()
        target, source = zip(*(_overlap(n, move) for n, move in zip(image.shape, (down, right))))
        moved[target] = image[source]
        return moved


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of the image, enlarged to its size (Szegedy et al. 2015); bilinear, by Pillow.

    Parameters
    ----------
    smallest : float
        In (0, 1]: the share of the area is drawn from [smallest, 1].
    aspect : float
        At least 1: the part may be wider or higher than the image by up to this factor.
    """

    smallest: float = 0.5
    aspect: float = 4 / 3

    def __post_init__(self) -> None:
        _number(self, "smallest", above=0, maximum=1)
        _number(self, "aspect", minimum=1)

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        rows, columns = image.shape[:2]
        area = random.uniform(self.smallest, 1)
        stretch = math.exp(random.uniform(-1, 1) * math.log(self.aspect) / 2)
        height, width = min(math.sqrt(area) / stretch, 1) * rows, min(math.sqrt(area) * stretch, 1) * columns
        top, left = random.uniform(0, rows - height), random.uniform(0, columns - width)
        box = left, top, left + width, top + height
        return _by_channel(image, lambda c: c.resize((columns, rows), BILINEAR, box))


@dataclass(frozen=True)
class RandomRotation:
    """Turned about the middle; bilinear, by Pillow.

    Parameters
    ----------
    degrees : float
        In [0, 180]: the angle is drawn from [-degrees, degrees].
    """

    degrees: float

    def __post_init__(self) -> None:
        _number(self, "degrees", minimum=0, maximum=180)

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        angle = math.radians(random.uniform(-self.degrees, self.degrees))
        cos, sin = math.cos(angle), math.sin(angle)
        y, x = image.shape[0] / 2, image.shape[1] / 2
        # Pillow samples (a x + b y + c, d x + e y + f) for the pixel whose middle is (x, y)
        matrix = cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
        return _by_channel(image, lambda c: c.transform(c.size, AFFINE, matrix, BILINEAR))


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and, where there are three channels, saturation; values are not clipped.

    Parameters
    ----------
    brightness, contrast, saturation : float
        In [0, 1]: the factor s is drawn from [1 - s, 1 + s]; it multiplies the image, its distance from the mean
        grey, and its distance from each pixel's grey.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for field in ("brightness", "contrast", "saturation"):
            _number(self, field, minimum=0, maximum=1)

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        most = np.array([self.brightness, self.contrast, self.saturation])
        b, c, s = (1 + most * random.uniform(-1, 1, 3)).astype(np.float32)
        if image.shape[-1] != 3:
            return (b * c) * image + (1 - c) * b * image.mean(dtype=np.float32)
        # b x, then m + c (x - m) with the mean grey m, then g + s (x - g) with the grey g of each pixel, in one
        grey = sum(weight * image[..., channel] for channel, weight in enumerate(LUMA))  # by @, BLAS would start threads
        changed = (s * c * b) * image
        grey = ((1 - s) * c * b) * grey + (1 - c) * b * grey.mean()
        for channel in range(3):  # twice as fast as to broadcast along so short an axis
            changed[..., channel] += grey
        return changed


@dataclass(frozen=True)
class Cutout:
    """A square set to 0 (DeVries and Taylor 2017); its centre is any pixel, so a border may cut it.

    Parameters
    ----------
    size : int
        Pixels along a side, at least 1.
    """

    size: int

    def __post_init__(self) -> None:
        as_int("Cutout", "size", self.size, minimum=1)

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        top, left = (random.integers(image.shape[:2]) - self.size // 2).tolist()
        image = image.copy()
        image[max(top, 0) : top + self.size, max(left, 0) : left + self.size] = 0
        return image


@dataclass(frozen=True)
class Mixup:
    """Each example becomes ``s * example + (1 - s) * another`` of its batch, its target likewise (Zhang et al. 2018).

    Parameters
    ----------
    alpha : float
        Greater than 0: each example's share s is drawn from the distribution Beta(alpha, alpha). Small values leave most
        examples nearly as they are.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        _number(self, "alpha", above=0)

    def __call__(self, x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> None:
        other, share = _partners(len(x), self.alpha, random)
        for array in (x, y):
            _blend(array, array[other], share)


@dataclass(frozen=True)
class CutMix:
    """A rectangle of each image is that of another of its batch; its target is mixed by area (Yun et al. 2019).

    Parameters
    ----------
    alpha : float
        Greater than 0: the share of the area that an image keeps is drawn from the distribution Beta(alpha, alpha); a
        rectangle of the image's proportions lies about any pixel, so a border may cut it.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _number(self, "alpha", above=0)

    def __call__(self, x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> None:
        other, share = _partners(len(x), self.alpha, random)
        middles = random.random((len(x), 2))
        images, size = x.copy(), np.array(x.shape[1:3])
        for i, middle in enumerate(middles):
            half = np.sqrt(1 - share[i]) * size / 2
            first = np.rint(np.clip(middle * size - half, 0, size)).astype(int)
            last = np.rint(np.clip(middle * size + half, 0, size)).astype(int)
            box = slice(first[0], last[0]), slice(first[1], last[1])
            x[i][box] = images[other[i]][box]
            share[i] = 1 - (last - first).prod() / size.prod()
        _blend(y, y[other], share)


def _partners(n: int, alpha: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each of n examples another one, and the share that it keeps itself."""
    return random.permutation(n), random.beta(alpha, alpha, n)


def _blend(array: np.ndarray, other: np.ndarray, share: np.ndarray) -> None:
    kept = share.astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
    array *= kept
    other *= 1 - kept
    array += other


def _number(owner: object, field: str, **bounds: Any) -> None:
    as_number(type(owner).__name__, field, getattr(owner, field), **bounds)


def _overlap(n: int, move: int) -> tuple[slice, slice]:
    """Of n pixels moved by ``move``: where those lie that stay inside, and where they come from."""
    kept = max(n - abs(move), 0)
    to = min(max(move, 0), n)
    start = min(max(-move, 0), n)
    return slice(to, to + kept), slice(start, start + kept)


def _by_channel(image: Image, change: Callable[[Any], Any]) -> Image:
    """An image whose channels are changed one by one as pictures of Pillow, of mode F."""
    from PIL import Image as pillow

    pictures = [pillow.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])]
    return np.stack([np.asarray(change(picture)) for picture in pictures], axis=-1)
