"""The native model file: round trips, every rule of the reader, mutated files, bounded memory, atomic saving."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import modelfile
from cnnext.errors import ModelFileError
from cnnext.modelfile import FORMAT, Limits, load, save

ROOT = Path(modelfile.__file__).resolve().parents[1]
MEGABYTE = 1 << 20
GRAPH = {"layers": [{"name": "stem", "type": "cnnext/Conv2D@1", "kernel_size": [3, 3], "bias": True, "alpha": 0.1}],
         "inputs": ["x"], "note": None}
TENSORS = {"stem/weights": np.arange(18, dtype=np.float32).reshape(3, 3, 1, 2), "stem/bias": np.zeros(2, np.float32),
           "step": np.array(7, np.int64)}


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, given as bytes, text or an object, whether it makes sense or not."""
    text = header if isinstance(header, (str, bytes)) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def with_document(document: object, **tensors: object) -> dict[str, object]:
    text = document if isinstance(document, str) else json.dumps(document)
    return {"__metadata__": {"cnnext": text}, **tensors}


def entry(shape: object, begin: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"format": 1}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape
        assert got[name].dtype == array.dtype.newbyteorder("=") and got[name].dtype.isnative
        assert got[name].tobytes() == array.astype(got[name].dtype).tobytes()
        assert got[name].flags.writeable and got[name].flags.aligned and got[name].flags.c_contiguous


# Round trips


ODD_TENSORS = {
    "nothing": {},
    "scalar": {"a": np.array(1.5, np.float32), "b": np.array(-(2**63), np.int64)},
    "size 0": {"a": np.zeros((0,), np.float32), "b": np.zeros((3, 0, 5), np.int64), "c": np.ones(1, np.float32)},
    "only size 0": {"a": np.zeros((2, 0), np.float32)},
    "names": {name: np.full(2, i, np.float32) for i, name in enumerate(
        ["", " ", "a/b:0", 'quo"te', "back\\slash", '\\"', "\\\\", "tab\tnewline\n", "\x00", "ümläut", "重み", "😀",
         "__metadata", "dtype", "\u2028", "../../etc/passwd", "x" * 1000])},
    "rank 8": {"a": np.arange(6, dtype=np.float32).reshape(1, 1, 2, 1, 1, 3, 1, 1)},
    "values": {"a": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)},
    "strided": {"a": np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-3], "b": np.ones((3, 2), np.float32).T},
    "big-endian": {"a": np.arange(5, dtype=">f4"), "b": np.arange(5, dtype=">i8")},
    "unaligned": {"a": np.frombuffer(b"\0" + np.arange(3, dtype=np.float32).tobytes(), "<f4", offset=1)},
    "mixed": {"b": np.ones(3, np.float32), "a": np.ones(3, np.int64), "c": np.ones((), np.float32)},
}


@pytest.mark.parametrize("tensors", ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_tensors_round_trip(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save(path, tensors, GRAPH)
    for source in (path, str(path), path.read_bytes()):
        got, graph = load(source)
        assert_same(got, tensors)
        assert graph == {"format": FORMAT, **GRAPH}


@pytest.mark.parametrize("graph", [
    {}, {"a": []}, {"a": {}, "b": {"c": [[[]]]}}, {"text": 'quote " back \\ \\" \n \x00 ü 重み 😀 \ud800'},
    {"": {"": ""}},
    {"int": [0, -1, 2**63, -(2**63)], "float": [0.1, -0.0, 1e300, 5e-324]}, {"brackets": "[[[{{{" * 100 + ",,,,"},
    {"__metadata__": 1, "cnnext": 2, "format": 1}])
def test_graphs_round_trip(tmp_path, graph):
    path = tmp_path / "model.safetensors"
    save(path, {}, graph)
    assert load(path) == ({}, {"format": 1, **graph})


JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() |
                    st.floats(allow_nan=False, allow_infinity=False),
                    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(), child, max_size=4),
                    max_leaves=20)


@settings(max_examples=200, deadline=None)
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name != "__metadata__"),
                      unique=True, max_size=5),
       shape=st.lists(st.integers(0, 4), max_size=4), graph=st.dictionaries(st.text(), JSON, max_size=4))
def test_anything_round_trips(tmp_path_factory, names, shape, graph):
    path = tmp_path_factory.getbasetemp() / "anything.safetensors"
    graph["format"] = 1
    tensors = {name: np.full(shape, i, [np.float32, np.int64][i % 2]) for i, name in enumerate(names)}
    save(path, tensors, graph)
    got, got_graph = load(path)
    assert_same(got, tensors)
    assert got_graph == graph


def test_arrays_are_independent_of_the_source():
    payload = safetensors.numpy.save(TENSORS, metadata={"cnnext": '{"format": 1}'})
    first, second = load(payload)[0], load(payload)[0]
    first["stem/weights"][:] = -1
    assert_same(second, TENSORS)


def test_safetensors_reads_the_file_and_the_bytes_are_reproducible(tmp_path):
    save(tmp_path / "a", TENSORS, GRAPH)
    save(tmp_path / "b", dict(reversed(TENSORS.items())), GRAPH)
    assert_same(safetensors.numpy.load_file(tmp_path / "a"), TENSORS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_metadata_and_any_order_of_keys_are_read():
    header = {"b": entry([1], 4, 8), "__metadata__": {"author": "ü", "cnnext": '{"format":1}'},
              "a": {"data_offsets": [0, 4], "shape": [], "dtype": "F32"}}
    tensors, graph = load(file_of(" \n".join(["{", json.dumps(header)[1:], "  "]), np.array([1, 2], "<f4").tobytes()))
    assert list(tensors) == ["a", "b"] and tensors["a"] == 1 and tensors["b"][0] == 2 and graph == GOOD


# What save refuses


LOOP: dict[str, object] = {}
LOOP["self"] = LOOP
DEEP: dict[str, object] = {}
for _ in range(100):
    DEEP = {"deeper": DEEP}


@pytest.mark.parametrize(("tensors", "graph", "error", "text"), [
    ({"w": np.zeros(2, complex)}, {}, TypeError,
     "`dtype` must be that of real numbers. Received dtype=dtype('complex128') (tensor 'w')"),
    ({"w": np.zeros(2, "datetime64[s]")}, {}, TypeError, "`dtype`"),
    ({"w": np.array([object()])}, {}, TypeError, "`dtype`"),
    ({"w": [1.0]}, {}, TypeError, "must be a numpy.ndarray"),
    ({3: np.zeros(2, np.float32)}, {}, TypeError, "`name` must be a str"),
    ({"__metadata__": np.zeros(2, np.float32)}, {}, ValueError, "reserves"),
    ({"\ud800": np.zeros(2, np.float32)}, {}, ValueError, "valid Unicode"),
    ({"x" * 5000: np.zeros(2, np.float32)}, {}, ValueError, "within 4096 bytes"),
    ({"w": np.zeros((1,) * 9, np.float32)}, {}, ValueError, "at most 8 integers"),
    ({}, [1], TypeError, "`graph` must be a dict"),
    ({}, {"a": float("nan")}, ValueError, "finite"),
    ({}, {"a": [float("inf")]}, ValueError, "finite"),
    ({}, {"a": 10**30}, ValueError, "31 digits"),
    ({}, {"a": {1: 2}}, TypeError, "`key` must be a str"),
    ({}, {"a": [({None: 2},)]}, TypeError, "`key` must be a str"),
    ({}, {"a": np.float32(1)}, TypeError, "JSON values only"),
    ({}, {"a": b"bytes"}, TypeError, "JSON values only"),
    ({}, {"a": {1, 2}}, TypeError, "JSON values only"),
    ({}, LOOP, ValueError, "nested in itself"),
    ({}, DEEP, ValueError, "64 deep"),
    ({}, {"a": [0] * 300_000}, ValueError, "at most 131072 values"),
    ({}, {"a": "x" * (5 * MEGABYTE)}, ValueError, "within 4194304 bytes"),
    ({}, {"format": 2}, ValueError, "be 1, or left out"),
    ({}, {"format": True}, ValueError, "be 1, or left out"),
])
def test_save_refuses_and_keeps_the_old_file(tmp_path, tensors, graph, error, text):
    path = tmp_path / "model.safetensors"
    save(path, TENSORS, GRAPH)
    before = path.read_bytes()
    with pytest.raises(error) as caught:
        save(path, tensors, graph)
    assert text in str(caught.value) and repr(str(path)) in str(caught.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


# What load refuses


NINE = [1] * 9
BAD_HEADERS = {
    "not an object": ("[1]", "start with '{'"),
    "blank first": (' {"a":1}', "start with '{'"),
    "no end": ('{"a":', "here"),
    "trailing text": (json.dumps(with_document(GOOD)) + "x", "end after its closing '}'"),
    "two objects": (json.dumps(with_document(GOOD)) * 2, "end after its closing '}'"),
    "comma at the end": (json.dumps(with_document(GOOD))[:-1] + ",}", "have '\"' here"),
    "key no string": ("{1:2}", "have '\"' here"),
    "string without end": ('{"abcdefgh', "strings that end"),
    "string ends in an escape": ('{"abcdefgh\\"', "strings that end"),
    "bad escape": ('{"\\x": 1}  ', "valid UTF-8 JSON strings"),
    "control character": ('{"\n": 1}  ', "valid UTF-8 JSON strings"),
    "bad UTF-8": (b'{"\xff\xfe": 1}', "valid UTF-8 JSON strings"),
    "lone surrogate": ('{"\\ud800": 1}', "valid UTF-8 JSON strings"),
    "duplicate tensor": ('{"a":%s,"a":%s}' % ((json.dumps(entry([1], 0, 4)),) * 2), "name every tensor once"),
    "duplicate, escaped": ('{"a":%s,"\\u0061":%s}' % ((json.dumps(entry([1], 0, 4)),) * 2), "name every tensor once"),
    "duplicate metadata": ('{"__metadata__":{},"__metadata__":{}}', "name every tensor once"),
    "duplicate metadata key": ('{"__metadata__":{"a":"","a":""}}', "every key of the metadata once"),
    "duplicate field": ('{"a":{"dtype":"F32","dtype":"F32"}}', "`dtype` once"),
    "unknown field": ('{"a":{"dtype":"F32","path":"/etc/passwd"}}', "`dtype`, `shape` and `data_offsets` only"),
    "missing field": ('{"a":{"dtype":"F32","shape":[1]}}', "two `data_offsets`"),
    "one offset": (with_document(GOOD, a={"dtype": "F32", "shape": [1], "data_offsets": [0]}), "two `data_offsets`"),
    "three offsets": (with_document(GOOD, a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}), "at most 2"),
    "entry no object": (with_document(GOOD, a=[1]), "have '{' here"),
    "dtype no string": (with_document(GOOD, a=entry([1], 0, 4, dtype=7)), "have '\"' here"),
    "dtype too long": (with_document(GOOD, a=entry([1], 0, 4, dtype="F" * 99)), "within 16 bytes"),
    "shape no list": (with_document(GOOD, a=entry("1", 0, 4)), "have '[' here"),
    "rank": (with_document(GOOD, a=entry(NINE, 0, 4)), "at most 8 integers"),
    "negative extent": (with_document(GOOD, a=entry([-1], 0, 4)), "non-negative integer"),
    "float extent": (with_document(GOOD, a=entry([1.0], 0, 4)), "non-negative integer"),
    "exponent": ('{"a":{"shape":[1e3]}}', "non-negative integer"),
    "leading zero": ('{"a":{"shape":[01]}}', "non-negative integer"),
    "boolean extent": (with_document(GOOD, a=entry([True], 0, 4)), "non-negative integer"),
    "null extent": (with_document(GOOD, a=entry([None], 0, 4)), "non-negative integer"),
    "text extent": (with_document(GOOD, a=entry(["1"], 0, 4)), "non-negative integer"),
    "nested extent": (with_document(GOOD, a=entry([[1]], 0, 4)), "non-negative integer"),
    "huge extent": (with_document(GOOD, a=entry([2**63], 0, 4)), "below 2**63"),
    "endless extent": ('{"a":{"shape":[%s]}}' % ("9" * 100_000), "below 2**63"),
    "metadata no object": ('{"__metadata__":"x"}', "have '{' here"),
    "metadata value no string": ('{"__metadata__":{"cnnext":{"format":1}}}', "have '\"' here"),
    "deep nesting": ("{" + '"a":{' * 100_000, "`dtype`, `shape` and `data_offsets` only"),
    "deep list": ('{"a":' + "[" * 100_000, "have '{' here"),
}


@pytest.mark.parametrize(("header", "text"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_load_refuses_headers(header, text):
    with pytest.raises(ModelFileError, match=r"at byte \d+ of the file") as caught:
        load(file_of(header, b"\0" * 4))
    assert text in str(caught.value)
    assert len(str(caught.value)) < 500


BAD_LAYOUTS = {
    "dtype unknown": ({"a": entry([1], 0, 4, "BF16")}, "`dtype` must be one of F32, I64"),
    "hole at the start": ({"a": entry([1], 4, 8)}, "begin at 0"),
    "hole between": ({"a": entry([0], 0, 0), "b": entry([1], 4, 8)}, "begin at 0"),
    "overlap": ({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, "begin at 8"),
    "same bytes twice": ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, "begin at 8"),
    "empty inside another": ({"a": entry([2], 0, 8), "b": entry([0], 4, 4)}, "begin at 8"),
    "reversed": ({"a": entry([1], 8, 4)}, "be ordered"),
    "beyond the end": ({"a": entry([4], 0, 16)}, "be ordered and lie within the 8 bytes"),
    "far beyond the end": ({"a": entry([2**60], 0, 2**62)}, "be ordered and lie within the 8 bytes"),
    "bytes left over": ({"a": entry([1], 0, 4)}, "end with the last tensor, after 4 bytes"),
    "nothing described": ({}, "end with the last tensor, after 0 bytes"),
    "span too long": ({"a": entry([1], 0, 8)}, "span the 4 bytes of shape (1,)"),
    "span too short": ({"a": entry([2], 0, 8, "I64")}, "span the 16 bytes"),
    "product": ({"a": entry([2**62, 2**62], 0, 8)}, "below 2**63"),
    "product wraps to the span": ({"a": entry([2**32, 2**32, 2], 0, 8)}, "below 2**63"),
    "size times item": ({"a": entry([2**61], 0, 8)}, "below 2**63"),
    "zero times huge": ({"a": entry([0, 2**62, 2**62], 0, 0), "b": entry([2], 0, 8)}, "below 2**63"),
}


@pytest.mark.parametrize(("tensors", "text"), BAD_LAYOUTS.values(), ids=BAD_LAYOUTS)
def test_load_refuses_layouts(tensors, text):
    with pytest.raises(ModelFileError) as caught:
        load(file_of(with_document(GOOD, **tensors), b"\0" * 8))
    assert text in str(caught.value)


BAD_DOCUMENTS = {
    "empty": ("", "valid JSON"),
    "no JSON": ("{", "valid JSON"),
    "list": ([], "be a JSON object"),
    "number": ("1", "be a JSON object"),
    "no format": ({}, "`format` must be a positive integer. Received format=None"),
    "format text": ({"format": "1"}, "be a positive integer"),
    "format boolean": ({"format": True}, "be a positive integer"),
    "format float": ({"format": 1.0}, "be a positive integer"),
    "format 0": ({"format": 0}, "be a positive integer"),
    "newer format": ({"format": 2}, "upgrade cnnext"),
    "NaN": ('{"format":1,"a":NaN}', "not finite"),
    "-Infinity": ('{"format":1,"a":-Infinity}', "not finite"),
    "overflow": ('{"format":1,"a":1e999}', "not finite"),
    "digits": ('{"format":1,"a":%s}' % ("9" * 1_000_000), "1000000 digits"),
    "duplicate key": ('{"format":1,"a":{"b":1,"b":1}}', "a key twice"),
    "duplicate format": ('{"format":1,"format":1}', "a key twice"),
    "trailing text": ('{"format":1}{}', "valid JSON"),
    "not ASCII": ('{"format":1,"ü":1}', "be ASCII text"),
    "deep lists": ('{"format":1,"a":' + "[" * 64 + "]" * 64 + "}", "64 deep"),
    "very deep lists": ("[" * 1_000_000, "at most 131072 values"),
    "deep objects": ('{"a":' * 100_000, "64 deep"),
    "deep behind strings": ('["\\\\","\\"",' + "[" * 100, "64 deep"),
    "many values": ('{"format":1,"a":[%s0]}' % ("0," * 300_000), "at most 131072 values"),
    "many strings": ('{"format":1,"a":[%s""]}' % ('"",' * 600_000), '''Received graph='{"format"'''),
}


@pytest.mark.parametrize(("document", "text"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_load_refuses_documents(document, text):
    with pytest.raises(ModelFileError) as caught:
        load(file_of(with_document(document)))
    assert text in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 8, b"\0" * 9, b"\x02" + b"\0" * 7 + b"{", b"\xff" * 8 + b"{}",
                                     b"PK\x03\x04" + b"\0" * 100, b"\x80\x04\x95" + b"\0" * 100])
def test_load_refuses_what_is_no_such_file(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    for source, name in ((path, repr(str(path))), (content, f"{len(content)} bytes in memory")):
        with pytest.raises(ModelFileError) as caught:
            load(source)
        assert name in str(caught.value)


def test_a_header_longer_than_the_file_is_refused_before_it_is_read():
    with pytest.raises(ModelFileError, match=r"`header length` must lie within the file\. .*=1000000 "):
        load(file_of("{}", length=1_000_000))


def test_every_truncation_is_refused():
    payload = safetensors.numpy.save(TENSORS, metadata={"cnnext": json.dumps(GOOD)})
    for length in range(len(payload)):
        with pytest.raises(ModelFileError):
            load(payload[:length])


def test_a_plain_safetensors_file_is_named_so():
    for metadata in (None, {"format": "pt"}):
        with pytest.raises(ModelFileError, match="a safetensors file, but no cnnext model"):
            load(safetensors.numpy.save({"w": np.zeros(2, np.float64)}, metadata=metadata))


def test_load_refuses_paths(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, text in [(tmp_path / "absent", "No such file"), (tmp_path, "directory"), ("/dev/zero", "a regular file"),
                       (tmp_path / "pipe", "a regular file"), ("null\0character", "null")]:
        with pytest.raises(ModelFileError, match=text):
            load(path)
    for wrong in (3, None, [b""]):
        with pytest.raises(TypeError, match="be a path or bytes"):
            load(wrong)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save(path, {"w": np.zeros(100_000, np.float32)}, {})
    check = modelfile._checked_layout

    def shrink(*arguments):
        os.truncate(path, 200_000)
        return check(*arguments)

    monkeypatch.setattr(modelfile, "_checked_layout", shrink)
    with pytest.raises(ModelFileError, match="changed while it was read"):
        load(path)


def test_memory_that_is_not_there_is_an_error_of_the_file(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    payload = safetensors.numpy.save(TENSORS, metadata={"cnnext": json.dumps(GOOD)})
    monkeypatch.setattr(np, "empty", fail)
    with pytest.raises(ModelFileError, match="fit in memory"):
        load(payload)


# Limits


def test_limits_are_inclusive_and_enforced():
    header = with_document({"format": 1, "a": [[0]]}, w=entry([1, 1, 2], 0, 8), v=entry([0], 8, 8))
    payload = file_of(header, b"\0" * 8)
    document = header["__metadata__"]["cnnext"]
    tight = {"max_tensors": 2, "max_rank": 3, "max_bytes": len(payload), "max_header_bytes": len(payload) - 16,
             "max_document_bytes": len(json.dumps(document)) - 2, "max_document_depth": 3, "max_document_values": 4}
    load(payload, limits=Limits(**tight))
    for name, value in tight.items():
        with pytest.raises(ModelFileError):
            load(payload, limits=Limits(**{name: value - 1}))


def test_keys_of_metadata_are_counted():
    payload = file_of({"__metadata__": {"cnnext": '{"format":1}', "a": "", "b": ""}})
    load(payload, limits=Limits(max_tensors=3))
    with pytest.raises(ModelFileError, match="at most 2 keys of metadata"):
        load(payload, limits=Limits(max_tensors=2))


def test_a_nesting_that_the_limits_allow_and_the_parser_does_not():
    text = '{"format":1,"a":' + "[" * 120_000 + "]" * 120_000 + "}"
    with pytest.raises(ModelFileError, match="valid JSON"):
        load(file_of(with_document(text)), limits=Limits(max_document_depth=200_000))


def test_a_sparse_giant_is_refused_at_once(tmp_path):
    path = tmp_path / "giant"
    count = 2**40 // 4
    with open(path, "wb") as file:
        file.write(file_of(with_document(GOOD, w=entry([count], 0, 4 * count))))
        file.truncate(file.tell() + 4 * count)
    with pytest.raises(ModelFileError, match="max_bytes"):
        load(path)


@pytest.mark.parametrize(("limit", "error"), [
    ({"max_rank": 33}, ValueError), ({"max_rank": 0}, ValueError), ({"max_bytes": -1}, ValueError),
    ({"max_tensors": 1.0}, TypeError), ({"max_tensors": True}, TypeError), ({"max_header_bytes": None}, TypeError)])
def test_limits_are_checked(limit, error):
    with pytest.raises(error, match=f"Limits: `{next(iter(limit))}` must"):
        Limits(**limit)


def test_one_tensor_too_many_is_refused():
    entries = {str(i): entry([0], 0, 0) for i in range(65_537)}
    with pytest.raises(ModelFileError, match=r"at most 65536 tensors .* Received header='65536'"):
        load(file_of(with_document(GOOD, **entries)))


# Memory


def padded(unit: str, size: int, before: str = "", after: str = "") -> str:
    return before + unit * (size // len(unit.encode())) + after


def document_file(text: str) -> bytes:
    return file_of(with_document(text))


def distinct_keys(count: int) -> str:
    return '{"format":1,' + ",".join(f'"{i:018x}":{i}.5' for i in range(count)) + "}"


def wide_names(count: int, digits: int) -> dict[str, object]:
    return {f"😀{i:0{digits}}": entry([0, *[9] * 7], 0, 0) for i in range(count)}


# Files built to take as much memory as the reader gives.
LARGE = {
    "header of lists": lambda: file_of(padded("[],", 16_000_000, '{"a":[')),
    "header of keys": lambda: file_of('{"__metadata__":{' + ",".join(f'"{i:x}":""' for i in range(100_000)) + "}}"),
    "header of one wide string": lambda: file_of('{"' + "😀" + "a" * 16_000_000),
    "header of wide names": lambda: file_of(json.dumps(with_document(GOOD, **wide_names(14_000, 1000)),
                                                       ensure_ascii=False)),
    "metadata of wide strings": lambda: file_of(
        '{"__metadata__":{' + ",".join(f'"{i}":"😀' + "a" * 4_000_000 + '"' for i in range(4)) + "}}"),
    "document of lists": lambda: document_file(padded("[],", 3_900_000, '{"a":[')),
    "document of lists within the limit": lambda: document_file(padded("[],", 180_000, '{"format":1,"a":[', "0]}")),
    "document of objects within the limit": lambda: document_file(
        padded('{"a":0},', 65_000 * 4, '{"format":1,"a":[', "0]}")),
    "document of distinct strings": lambda: document_file(
        '{"format":1,"a":[' + ",".join(f'"{i:x}"' for i in range(131_000)) + "]}"),
    "document of distinct keys": lambda: document_file(distinct_keys(131_000)),
    "document of distinct keys and wide names": lambda: file_of(
        json.dumps(with_document(distinct_keys(131_000), **wide_names(3_700, 1000)), ensure_ascii=False)),
    "document of short strings": lambda: document_file(padded('"ab",', 2_500_000, '{"a":[')),
    "document of pieces": lambda: document_file(padded('""1,', 2_700_000, '{"a":[')),
    "document of escapes": lambda: document_file(padded('\\"', 1_300_000, '{"format":1,"a":"', '"}')),
    "document of a wide character": lambda: document_file(padded("a", 4_000_000, '{"a":"😀')),
    "document of wide escapes": lambda: file_of(
        '{"__metadata__":{"cnnext":"\\ud83d\\ude00' + "a" * 4_000_000 + '"}}'),
    "many tensors": lambda: file_of(with_document(GOOD, **{str(i): entry([0], 0, 0) for i in range(20_000)})),
    "one large tensor": lambda: file_of(with_document(GOOD, a=entry([5_000_000], 0, 20_000_000)), b"\0" * 20_000_000),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_bounded_by_the_file(tmp_path, name):
    content = LARGE[name]()
    path = tmp_path / "file"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        try:
            load(path)
        except ModelFileError:
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= max(64 * MEGABYTE, 8 * len(content))
    print(f"{name}: file {len(content) / MEGABYTE:.1f} MB, peak {peak / MEGABYTE:.1f} MB")


def test_reading_takes_one_copy(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, {"a": np.zeros(2_000_000, np.float32), "b": np.zeros(3_000_000, np.int64)}, GRAPH)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        kept = load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size - 10_000 < sum(array.nbytes for array in kept[0].values())
    assert peak < size + MEGABYTE


# Mutations


SEEDS = [
    safetensors.numpy.save(TENSORS, metadata={"cnnext": json.dumps({"format": 1, **GRAPH})}),
    safetensors.numpy.save({}, metadata={"cnnext": '{"format":1}'}),
    safetensors.numpy.save({"重み": np.zeros((0, 3), np.float32), "a\\\"b": np.ones((), np.float32)},
                           metadata={"cnnext": json.dumps({"format": 1, "text": "ü\\\"[{"}), "other": "😀"}),
    safetensors.numpy.save({str(i): np.full(1 + i % 3, i, [np.float32, np.int64][i % 2]) for i in range(8)},
                           metadata={"cnnext": json.dumps({"format": 1, "deep": [[[[{"a": {"b": [None, True]}}]]]]})}),
]
NUMBERS = [0, 1, 3, 4, 7, 8, 12, 100, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]
JUNK = [-1, -0.0, 1.5, 1e300, True, None, "", "F32", "F16", "BF16", "\u0000", "重み", [], {}, [[]], [0], [2**62] * 2,
        {"a": 1}, *NUMBERS]
TOKENS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u0000", b"\\ud800", b"\xff", b"\xf0\x9f", b"\0", b" ",
          b"-", b"1e9", b"null", b"true", b"NaN", b'"a":', b"[" * 300, b'{"a":' * 300, b"9" * 400,
          b'"__metadata__":{},', b'"dtype":"I64",']


def mutate_bytes(rng: random.Random, payload: bytes) -> bytes:
    """Flip bits, cut, insert, repeat or overwrite, once to three times, mostly in the header."""
    content = bytearray(payload)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(max(1, len(content)))
        kind = rng.randrange(7)
        if kind == 0 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and content:
            content[at] = rng.randrange(256)
        elif kind == 2:
            del content[at : at + rng.choice([1, 2, 8, 10**6])]
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 4:
            content[at:at] = rng.choice(TOKENS)
        elif kind == 5:
            content[at:at] = content[at : at + rng.randint(1, 64)]
        else:
            delta = rng.choice([*range(-9, 10), *NUMBERS])
            length = (int.from_bytes(content[:8], "little") + delta) % 2**64
            content[:8] = length.to_bytes(8, "little")
    return bytes(content)


def mutate_header_text(rng: random.Random, payload: bytes) -> bytes:
    """Edit the header's bytes and keep its length field right, so that the edit itself is what the reader meets."""
    length = int.from_bytes(payload[:8], "little")
    header = bytearray(payload[8 : 8 + length])
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(header))
        if rng.random() < 0.5:
            header[at : at + rng.randint(0, 4)] = rng.choice(TOKENS)
        else:
            header[at] ^= 1 << rng.randrange(8)
    return file_of(bytes(header), payload[8 + length :])


def replace_somewhere(rng: random.Random, node: object) -> object:
    """Replace, remove or repeat one value in nested dicts and lists."""
    if isinstance(node, (dict, list)) and node and rng.random() < 0.8:
        copy = dict(node) if isinstance(node, dict) else list(node)
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        kind = rng.random()
        if kind < 0.1:
            del copy[key]
        elif kind < 0.2 and isinstance(copy, dict):
            copy[rng.choice(["dtype", "shape", "x", "__metadata__", "cnnext", "format"])] = copy[key]
        else:
            copy[key] = replace_somewhere(rng, copy[key])
        return copy
    if type(node) is int and rng.random() < 0.5:
        return node + rng.choice([-8, -4, -1, 1, 4, 8, 2**62])
    return rng.choice(JUNK)


def mutate_header_values(rng: random.Random, payload: bytes) -> bytes:
    """Replace values of the header, or of the graph document in it, by others of any type."""
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    if rng.random() < 0.3:
        document = replace_somewhere(rng, json.loads(header["__metadata__"]["cnnext"]))
        header["__metadata__"]["cnnext"] = json.dumps(document)
    else:
        header = replace_somewhere(rng, header)
    return file_of(json.dumps(header, ensure_ascii=rng.random() < 0.5), payload[8 + length :])


def check_mutant(content: bytes) -> bool:
    """Load; only ModelFileError may escape. What loads must be consistent, and mean the same to safetensors."""
    try:
        tensors, graph = load(content)
    except ModelFileError as error:
        assert len(str(error)) < 1000
        return False
    assert graph["format"] == FORMAT
    assert sum(array.nbytes for array in tensors.values()) <= len(content)
    assert_same(tensors, safetensors.numpy.load(content))
    return True


def run_mutants(seed: int, count: int) -> tuple[int, int]:
    """Check `count` mutants of each kind; return how many loaded and how many were refused."""
    rng = random.Random(seed)
    loaded = refused = 0
    for mutate in (mutate_bytes, mutate_header_text, mutate_header_values):
        for number in range(count):
            content = mutate(rng, SEEDS[number % len(SEEDS)])
            try:
                accepted = check_mutant(content)
            except Exception as error:
                raise AssertionError(f"{mutate.__name__} {number}: {content!r}") from error
            loaded += accepted
            refused += not accepted
    return loaded, refused


def test_mutated_files_give_only_model_file_errors():
    loaded, refused = run_mutants(seed=20, count=8000)
    # Both must be many: mutants that all fail at the first check would test nothing behind it.
    assert loaded > 1000 and refused > 10_000


def test_mutated_files_take_little_memory():
    tracemalloc.start()
    try:
        run_mutants(seed=21, count=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * MEGABYTE


# Atomic saving


def test_a_save_killed_at_any_time_leaves_one_of_the_two_files(tmp_path):
    """A child saves two models in turn without end; whenever it is killed, one of them is there, whole."""
    code = """
import sys, numpy as np
from cnnext.modelfile import save
models = [{"w": np.full(n, n, np.float32)} for n in (200_000, 300_000)]
print("ready", flush=True)
while True:
    for tensors in models:
        save(sys.argv[1], tensors, {"n": tensors["w"].size})
"""
    path = tmp_path / "model.safetensors"
    save(path, {"w": np.full(300_000, 300_000, np.float32)}, {"n": 300_000})
    rng = random.Random(21)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        tensors, graph = load(path)
        assert graph["n"] in (200_000, 300_000)
        assert_same(tensors, {"w": np.full(graph["n"], graph["n"], np.float32)})


def test_a_save_on_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    code = """
import resource, sys, numpy as np
from cnnext.modelfile import save
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save(sys.argv[1], {"w": np.zeros(10_000, np.float32)}, {})
except OSError as error:
    print("refused", error.errno)
"""
    path = tmp_path / "model.safetensors"
    save(path, TENSORS, GRAPH)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True,
                           timeout=60, check=False)
    assert child.stdout.startswith("refused"), child.stderr
    assert_same(load(path)[0], TENSORS)
    assert os.listdir(tmp_path) == [path.name]


def test_load_runs_no_code_and_imports_nothing():
    """Even a document full of import paths and pickles comes back as the strings it holds."""
    evil = {"format": 1, "class": "os:system", "args": ["touch /tmp/x"], "__reduce__": "cos\nsystem\n(S'id'\ntR."}
    before = set(sys.modules)
    assert load(file_of(with_document(evil)))[1] == evil
    assert set(sys.modules) == before
