"""Arrays that stay in their file: reading parts, files that go or change, one array for all who ask."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.graph import Parameter
from cnnext.stored import Stored, StoredFile, in_memory
from tests.helpers import images

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def path(tmp_path):
    """A file of four bytes and then twelve floats, written long ago."""
    path = tmp_path / "weights"
    path.write_bytes(b"head" + images(3, 4).tobytes())
    os.utime(path, (1, 1))
    return path


def opened(path) -> StoredFile:
    return StoredFile(os.open(path, os.O_RDONLY), "file 'weights'")


@pytest.mark.parametrize("in_bytes", [False, True])
def test_reading(path, in_bytes):
    file = StoredFile(path.read_bytes(), "bytes") if in_bytes else opened(path)
    stored = Stored(file, 4, (3, 4), FLOAT32)
    assert (file.size, stored.size, stored.nbytes) == (52, 12, 48)
    array = in_memory(stored)
    np.testing.assert_array_equal(array, images(3, 4))
    array[...] = 0      # it is writable, and a copy
    np.testing.assert_array_equal(Stored(file, 20, (2, 4), FLOAT32).read(), images(3, 4)[1:])
    assert file.read(0, 4) == b"head" and Stored(file, 52, (0, 4), FLOAT32).read().shape == (0, 4)


@pytest.mark.parametrize("in_bytes", [False, True])
def test_reading_beyond_the_end(path, in_bytes):
    file = StoredFile(path.read_bytes(), "bytes") if in_bytes else opened(path)
    with pytest.raises(cx.ModelFileError, match="load it again"):
        Stored(file, 8, (3, 4), FLOAT32).read()


def test_a_file_that_is_removed_or_replaced_is_still_there(path, tmp_path):
    stored = Stored(opened(path), 4, (3, 4), FLOAT32)
    (tmp_path / "other").write_bytes(bytes(52))
    os.replace(tmp_path / "other", path)
    np.testing.assert_array_equal(stored.read(), images(3, 4))
    path.unlink()
    np.testing.assert_array_equal(stored.read(), images(3, 4))


@pytest.mark.parametrize("size", [52, 20, 60])
def test_a_file_that_is_written_to_is_noticed(path, size):
    stored = Stored(opened(path), 4, (3, 4), FLOAT32)
    path.write_bytes(bytes(size))
    with pytest.raises(cx.ModelFileError, match=r"^file 'weights' was written to after it was opened; load it again\.$"):
        stored.read()


def test_the_descriptor_is_closed(path):
    file = opened(path)
    descriptor = file._source
    del file
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)


def test_parameters_are_read_once_and_are_one_array(path):
    parameter = Parameter("w", Stored(opened(path), 4, (3, 4), FLOAT32))
    assert (parameter.shape, parameter.size) == ((3, 4), 12)
    parameter.peek()[...] = 0
    assert parameter.stored is not None     # looking keeps nothing
    arrays: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: arrays.append(parameter.data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(arrays) == 8 and all(a is parameter.data for a in arrays) and parameter.stored is None
    np.testing.assert_array_equal(parameter.data, images(3, 4))
    parameter.assign(np.ones((3, 4)))
    assert parameter.peek() is parameter.data and parameter.data.sum() == 12
