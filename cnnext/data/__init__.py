"""Data sets for the demo and for first experiments: digits that a package on this machine carries, and IDX files."""

from __future__ import annotations

from cnnext.data.idx import load_idx_folder, read_idx
from cnnext.data.images import ImageData, with_shifted_copies
from cnnext.data.mnist import load_mnist_5k

__all__ = ["ImageData", "load_idx_folder", "load_mnist_5k", "read_idx", "with_shifted_copies"]
