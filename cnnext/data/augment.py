"""Augmentation: changes of an image that do not change what it shows, drawn at random.

Each is a frozen description that is called with one image, float32 (rows, columns, channels), and a generator; it returns
an image of the same shape and leaves the given one as it is. What comes in from beyond a border is 0.
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
        return _affine(image, (width / columns, 0, left, 0, height / rows, top))


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
        return _affine(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


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
        brightness, contrast, saturation = (1 + most * random.uniform(-1, 1, 3)).astype(np.float32)
        image = image * brightness
        mean = np.float32(_grey(image).mean())
        image = mean + contrast * (image - mean)
        if image.shape[-1] == 3 and self.saturation:
            grey = _grey(image)[..., np.newaxis]
            image = grey + saturation * (image - grey)
        return image


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


def _number(owner: object, field: str, **bounds: Any) -> None:
    as_number(type(owner).__name__, field, getattr(owner, field), **bounds)


def _grey(image: Image) -> Image:
    return image @ LUMA if image.shape[-1] == 3 else image.mean(-1)


def _overlap(n: int, move: int) -> tuple[slice, slice]:
    """Of n pixels moved by ``move``: where those lie that stay inside, and where they come from."""
    kept = max(n - abs(move), 0)
    to = min(max(move, 0), n)
    start = min(max(-move, 0), n)
    return slice(to, to + kept), slice(start, start + kept)


def _affine(image: Image, matrix: tuple[float, ...]) -> Image:
    """Sample (a x + b y + c, d x + e y + f) for every pixel, whose middle is (x, y)."""
    from PIL import Image as pillow

    size = image.shape[1], image.shape[0]
    channels = [pillow.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])]
    warped = [c.transform(size, pillow.Transform.AFFINE, matrix, pillow.Resampling.BILINEAR) for c in channels]
    return np.stack([np.asarray(c) for c in warped], axis=-1)
