"""IDX files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST; gzipped or not.

Big-endian: two zero bytes, one byte for the type, one for the rank, an uint32 for each extent, the elements in C order.
Described on the page of the MNIST database (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cnnext.data.images import ImageData, as_unit_images

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_RANK = 32  # NumPy 1 takes no more
GZIP_MAGIC = b"\x1f\x8b"

# No deflate stream is larger than 1032 times its compressed form, so a header that promises more than that lies, and
# nothing is allocated for it. (https://www.zlib.net/zlib_tech.html)
LARGEST_EXPANSION = 1032


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file.

    Parameters
    ----------
    path : path-like
        Gzipped or not; the content decides, not the name.

    Returns
    -------
    ndarray
        In the machine's byte order.

    Raises
    ------
    ValueError
        If the header is not that of an IDX file, or the elements are fewer or more than it says.
    OSError
        If the file cannot be read.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        limit = os.fstat(file.fileno()).st_size * (LARGEST_EXPANSION if zipped else 1)
        try:
            if not zipped:
                return _read(file, os.fspath(path), limit)
            with gzip.open(file) as unzipped:
                return _read(unzipped, os.fspath(path), limit)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"IDX file {os.fspath(path)!r}: the gzip stream is damaged: {error}") from error


def _read(file: BinaryIO, path: str, limit: int) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in DTYPES or not 1 <= head[3] <= MAX_RANK:
        raise ValueError(f"IDX file {path!r}: must begin with two zero bytes, a type and a rank. Received {head!r}.")
    dtype, rank = np.dtype(DTYPES[head[2]]), head[3]
    extents = file.read(4 * rank)
    if len(extents) < 4 * rank:
        raise ValueError(f"IDX file {path!r}: the header must have {rank} extents. Received {len(extents)} bytes.")
    shape = struct.unpack(f">{rank}I", extents)
    n_bytes = prod(shape) * dtype.itemsize
    if n_bytes > limit:
        raise ValueError(f"IDX file {path!r}: must hold the {n_bytes} bytes that its shape {shape} needs; it is too "
                         "short.")
    data = file.read(n_bytes)
    if len(data) < n_bytes or file.read(1):
        found = "more" if len(data) == n_bytes else len(data)
        raise ValueError(f"IDX file {path!r}: must hold the {n_bytes} bytes that its shape {shape} needs. "
                         f"Received {found}.")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def load_idx_folder(folder: str | os.PathLike[str]) -> ImageData:
    """Read the four files of MNIST, or of a data set in its form, such as Fashion-MNIST.

    Parameters
    ----------
    folder : path-like
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``; each may end in ``.gz``, and ``train-images.idx3-ubyte`` is found as well.

    Raises
    ------
    FileNotFoundError
        If one of them is missing.
    ValueError
        If one is damaged, or labels and images do not belong together.
    """
    x_train, y_train = _images_and_labels(Path(folder), "train")
    x_test, y_test = _images_and_labels(Path(folder), "t10k")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(f"folder {os.fspath(folder)!r}: test images must have the training images' size "
                         f"{x_train.shape[1:3]}. Received {x_test.shape[1:3]}.")
    return ImageData(Path(folder).resolve().name, x_train, y_train, x_test, y_test)


def _images_and_labels(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    image_file, label_file = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.dtype != np.uint8 or images.ndim != 3 or images.size == 0:
        raise ValueError(f"IDX file {str(image_file)!r}: must hold grey images, uint8 of rank 3. "
                         f"Received {images.dtype} of shape {images.shape}.")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(f"IDX file {str(label_file)!r}: must hold {len(images)} labels, uint8. "
                         f"Received {labels.dtype} of shape {labels.shape}.")
    return as_unit_images(images), labels.astype(np.int64)


def _find(folder: Path, stem: str, rank: int) -> Path:
    names = [f"{stem}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"folder {str(folder)!r}: must contain {names[0]} or {names[1]}.")
