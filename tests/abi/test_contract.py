"""The native contract only grows: the header beside the one last released, and ``plugin.pxd`` beside the header."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from tests.abi.contract import HEADER, PXD, breaks, compiler, declarations, describe, preprocessed, pxd_as_c, released

pytestmark = [
    pytest.mark.skipif(shutil.which(compiler()[0]) is None, reason="no C compiler"),
    pytest.mark.skipif(struct.calcsize("P") != 8, reason="the descriptions are of 64-bit machines"),
]


@pytest.fixture(scope="module")
def now():
    return describe()


def test_the_header_only_grows(now):
    description = released(now["macros"]["CNX_ABI"])
    assert description.exists(), "a new CNX_ABI: describe it with `make abi`"
    assert breaks(json.loads(description.read_text()), now) == []


def changed(tmp_path: Path, old: str, new: str) -> dict:
    text = HEADER.read_text()
    assert text.count(old) == 1, f"{text.count(old)} times in the header: {old}"
    (tmp_path / "changed.h").write_text(text.replace(old, new))
    return describe(tmp_path / "changed.h")


FAULTS = {
    "fields change places": ("    int32_t dtype;\n    int32_t rank;", "    int32_t rank;\n    int32_t dtype;",
                             "cnx_tensor.dtype was"),
    "a field comes between": ("    void *scratch;", "    int64_t more;\n    void *scratch;", "cnx_worker.scratch was"),
    "a field is removed": ("    int64_t n_tiles;\n", "", "cnx_args.n_tiles was"),
    "a field has another name": ("int32_t n_src, n_dst;", "int32_t n_sources, n_dst;", "cnx_args.n_src was"),
    "a field is wider": ("int32_t index, count;", "int64_t index; int32_t count;", "cnx_worker.index was"),
    "a type of the same width": ("uint32_t abi, size;\n    const char *level;",
                                 "uint32_t abi; int32_t size; const char *level;", "cnx_simd.size was"),
    "a pointer to something else": ("const int64_t *a_seg;", "const int32_t *a_seg;", "cnx_gemm.a_seg was"),
    "a longer array": ("tile_rows[8];", "tile_rows[10];", "cnx_simd.tile_rows was"),
    "a primitive takes something else": ("(*axpy)(float scale,", "(*axpy)(double scale,", "cnx_simd.axpy was"),
    "a struct without size grows": ("} cnx_gemm;", "    float more, and_more;\n} cnx_gemm;", "cnx_gemm had"),
    "an element of arrays grows": ("} cnx_tensor;", "    int64_t more;\n} cnx_tensor;", "cnx_tensor had"),
    "a kernel takes something else": ("const cnx_args *args, cnx_worker *worker);", "cnx_args *args, cnx_worker *worker);",
                                      "cnx_kernel_fn was"),
    "a constant changes": ("CNX_ERROR_LABEL = 1,", "CNX_ERROR_LABEL = 5,", "CNX_ERROR_LABEL was 1, is 5"),
    "a constant is removed": ("    CNX_ERROR_LABEL = 1,", "", "CNX_ERROR_LABEL is gone"),
    "a constant takes another's value": ("CNX_INT64 = 1", "CNX_INT64 = 1, CNX_OF_A_TEST = 1", "takes the value 1"),
    "a function comes between": ("OP(IDENTITY, identity, y)", "OP(IDENTITY, identity, y) OP(OF_A_TEST, of_a_test, x)",
                                 "CNX_CLIP was 1, is 2"),
    "a function is removed": ("OP(MAXIMUM, maximum)", "", "CNX_MAXIMUM is gone"),
    "an extent changes": ("CNX_MAX_RANK 8", "CNX_MAX_RANK 9", "CNX_MAX_RANK was 8, is 9"),
    "another capsule": ('"cnnext.kernel.v1"', '"cnnext.kernel.v2"', "CNX_KERNEL_CAPSULE was"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_breaks_plugins_is_found(now, tmp_path, fault):
    old, new, words = FAULTS[fault]
    assert any(words in line for line in breaks(now, changed(tmp_path, old, new))), breaks(now, changed(tmp_path, old, new))


@pytest.mark.parametrize(("old", "new"), [
    ("} cnx_simd;", "    void (*more)(float *x, int64_t n);\n} cnx_simd;"),
    ("} cnx_worker;", "    int64_t more;\n} cnx_worker;"),
    ("    int64_t n_tiles;\n", "    int64_t n_tiles;\n    int64_t more;\n"),
    ("CNX_ERROR_FAILED = 2", "CNX_ERROR_FAILED = 2, CNX_ERROR_OF_A_TEST = 99"),
    ("    CNX_UNARY_COUNT", "    CNX_OF_A_TEST, CNX_UNARY_COUNT"),
    ("typedef struct cnx_kernel {", "typedef struct cnx_more { float x; } cnx_more;\ntypedef struct cnx_kernel {"),
], ids=["a primitive", "a field of the worker", "a field of the arguments", "an error code",
        "a function, and the count grows", "a struct"])
def test_appending_is_allowed(now, tmp_path, old, new):
    assert breaks(now, changed(tmp_path, old, new)) == []


def declared(pxd: str, macros: dict) -> dict:
    found = declarations(pxd_as_c(pxd, macros))
    found["enums"] = [names for names in found["enums"] if "CNX_ABI" not in names]  # in the header, these are macros
    return found


def test_the_pxd_declares_what_the_header_does(now):
    assert declared(PXD.read_text(), now["macros"]) == declarations(preprocessed(HEADER))
    assert all(name in PXD.read_text() for name in now["macros"])


@pytest.mark.parametrize(("old", "new"), [
    ("        CNX_ERROR_LABEL\n", ""), ("        int64_t params_bytes\n", ""), ("tile_rows[8]", "tile_rows[7]"),
    ("(*axpy)(float scale", "(*axpy)(double scale"), ("(const cnx_args *args, cnx_worker", "(cnx_args *args, cnx_worker"),
])
def test_a_pxd_that_says_something_else_is_found(now, old, new):
    assert PXD.read_text().count(old) == 1
    assert declared(PXD.read_text().replace(old, new), now["macros"]) != declarations(preprocessed(HEADER))
