"""Arrays that still lie in a model file and are read when they are wanted.

A session needs its weights once, to pack them; until then, and when other input shapes want them again, they stay in the
file. The file is kept open, so it may be removed or replaced by another of its name; what is written into it is noticed.
It is never mapped: shortening a mapped file ends the process that reads it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cnnext.errors import ModelFileError
from cnnext.threads import new_lock

CAN_STAY = hasattr(os, "preadv")    # reading at a place without moving the position that threads and forks share


class StoredFile:
    """An open file, or the bytes of one.

    Parameters
    ----------
    source : int or bytes
        A descriptor, which is closed when nothing refers to this object any more.
    where : str
        What errors call it.
    """

    def __init__(self, source: int | bytes, where: str):
        self.where = where
        self._source = source
        self._state = self._stamp()
        self._lock = new_lock(self)

    def __del__(self) -> None:
        if isinstance(self._source, int):
            os.close(self._source)

    @property
    def lock(self) -> threading.Lock:
        """Held while an array becomes one in memory."""
        return self._lock

    def _stamp(self) -> tuple[int, int]:
        if isinstance(self._source, bytes):
            return len(self._source), 0
        status = os.fstat(self._source)
        return status.st_size, status.st_mtime_ns

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._state[0]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on.

        Raises
        ------
        ModelFileError
            If they cannot be read, or the file has changed since it was opened.
        """
        try:
            if isinstance(self._source, bytes):
                done = min(len(buffer), max(len(self._source) - offset, 0))
                buffer[:done] = memoryview(self._source)[offset : offset + done]
            else:
                done = 0
                while done < len(buffer) and (n := os.preadv(self._source, [buffer[done:]], offset + done)):
                    done += n
            whole = done == len(buffer) and self._stamp() == self._state
        except OSError as error:
            raise ModelFileError(f"{self.where} cannot be read: {error.strerror or error}.") from error
        if not whole:
            raise ModelFileError(f"{self.where} was written to after it was opened; load it again.")

    def read(self, offset: int, n_bytes: int) -> bytearray:
        """``n_bytes`` from ``offset`` on."""
        buffer = bytearray(n_bytes)
        self.read_into(memoryview(buffer), offset)
        return buffer


@dataclass(frozen=True)
class Stored:
    """An array in a file: little-endian elements in C order."""

    file: StoredFile
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The array: new, and writable."""
        array = np.empty(self.shape, self.dtype)
        self.read_into(array)
        return array

    def read_into(self, array: np.ndarray) -> None:
        """Fill a C-contiguous array of as many bytes."""
        if array.size:
            self.file.read_into(array.reshape(-1).view(np.uint8).data, self.offset)


Tensor = np.ndarray | Stored


def in_memory(array: Tensor) -> np.ndarray:
    """The array, read if it is in a file."""
    return array.read() if isinstance(array, Stored) else array
