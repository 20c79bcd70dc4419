"""IDX files: what is read is what was written; damaged files give a clear error and no large allocation."""

from __future__ import annotations

import gzip
import re
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cnnext.data import load_idx_folder, read_idx
from cnnext.data.idx import DTYPES


def idx_bytes(array: np.ndarray) -> bytes:
    code = next(c for c, dtype in DTYPES.items() if np.dtype(dtype) == array.dtype.newbyteorder(">"))
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.astype(DTYPES[code]).tobytes()


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(sorted(DTYPES)), st.booleans())
def test_read_what_was_written(tmp_path_factory, data, code, zipped):
    dtype = np.dtype(DTYPES[code]).newbyteorder("=")
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7)))
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    found = read_idx(path)
    assert found.dtype == dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, array)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(("content", "words"), [
    (b"", "two zero bytes"),
    (b"\0\0\x08", "two zero bytes"),
    (b"\1" + GOOD[1:], "two zero bytes"),
    (b"\0\0\x07" + GOOD[3:], "two zero bytes"),
    (b"\0\0\x08\0" + GOOD[4:], "two zero bytes"),
    (b"\0\0\x08\xff" + GOOD[4:], "two zero bytes"),
    (GOOD[:9], "3 extents"),
    (GOOD[:-1], "24 bytes"),
    (GOOD + b"\0", "24 bytes"),
    (gzip.compress(GOOD, mtime=0)[:-9], "gzip"),      # with the time in it, workers of xdist collect different names
    (gzip.compress(GOOD[:-1], mtime=0), "24 bytes"),
    (b"\x1f\x8b" + b"\xff" * 30, "gzip"),
])
def test_damaged_files(content, words, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_that_promises_too_much_allocates_nothing(zipped, tmp_path):
    content = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 2**31) + bytes(1000)
    (tmp_path / "file").write_bytes(gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too short"):
            read_idx(tmp_path / "file")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 8 * 60), st.integers(0, 400), st.booleans())
def test_flipped_bits_give_an_array_or_a_value_error(tmp_path_factory, bit, cut, zipped):
    content = bytearray(gzip.compress(GOOD) if zipped else GOOD)
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(bytes(content[: len(content) - cut % 5]))
    try:
        assert read_idx(path).nbytes <= len(GOOD)
    except ValueError as error:
        assert "IDX file" in str(error)


def write_folder(folder, n_train=12, n_test=5, mark="-", zipped=False):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        arrays[f"{part}-images{mark}idx3-ubyte"] = rng.integers(0, 256, (n, 6, 7), np.uint8)
        arrays[f"{part}-labels{mark}idx1-ubyte"] = rng.integers(0, 3, n, np.uint8)
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return list(arrays.values())


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_folder(mark, zipped, tmp_path):
    x_train, y_train, x_test, y_test = write_folder(tmp_path, mark=mark, zipped=zipped)
    data = load_idx_folder(tmp_path)
    np.testing.assert_allclose(data.x_train, x_train[..., np.newaxis] / 255, rtol=1e-6)
    np.testing.assert_allclose(data.x_test, x_test[..., np.newaxis] / 255, rtol=1e-6)
    np.testing.assert_array_equal(data.y_train, y_train)
    np.testing.assert_array_equal(data.y_test, y_test)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int64
    assert data.name == tmp_path.name and data.classes == 3


@pytest.mark.parametrize(("name", "array", "error", "words"), [
    ("t10k-labels-idx1-ubyte", None, FileNotFoundError, "t10k-labels-idx1-ubyte"),
    ("train-labels-idx1-ubyte", np.zeros(11, np.uint8), ValueError, "12 labels"),
    ("train-labels-idx1-ubyte", np.zeros(12, np.int32), ValueError, "12 labels"),
    ("train-images-idx3-ubyte", np.zeros((12, 6), np.uint8), ValueError, "grey images"),
    ("train-images-idx3-ubyte", np.zeros((12, 6, 7), np.float32), ValueError, "grey images"),
    ("train-images-idx3-ubyte", np.zeros((12, 8, 7), np.uint8), ValueError, "training images' size (8, 7)"),
])
def test_folders_that_do_not_fit(name, array, error, words, tmp_path):
    write_folder(tmp_path)
    if array is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(idx_bytes(array))
    with pytest.raises(error, match=re.escape(words)):
        load_idx_folder(tmp_path)
