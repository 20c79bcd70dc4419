"""Data: pictures in folders, arrays and IDX files; augmentation; the digits that a package on this machine carries."""

from __future__ import annotations

from cnnext.data.augment import (
    Augmentation,
    ColorJitter,
    CutMix,
    Cutout,
    Mixture,
    Mixup,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
)
from cnnext.data.folder import ImageFolder
from cnnext.data.idx import load_idx_folder, read_idx
from cnnext.data.images import ImageData, with_shifted_copies
from cnnext.data.mnist import load_mnist_5k
from cnnext.data.source import Arrays, DataSource

__all__ = [
    "Arrays", "Augmentation", "ColorJitter", "CutMix", "Cutout", "DataSource", "ImageData", "ImageFolder", "Mixture",
    "Mixup", "RandomHorizontalFlip", "RandomResizedCrop", "RandomRotation", "RandomShift", "load_idx_folder",
    "load_mnist_5k", "read_idx", "with_shifted_copies",
]
