"""ONNX files before protobuf sees them: without their weights, and what parsing the rest would cost.

Protobuf would copy weights twice. They stay in the file; what is parsed has tensors without data in their place.
Protobuf and Python spend hundreds of bytes on a message of two: ten megabytes of empty nodes become three gigabytes. The
messages are walked as they lie in the file (https://protobuf.dev/programming-guides/encoding/): keys, lengths, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from cnnext.errors import ModelFileError, message
from cnnext.stored import StoredFile

# Bytes, measured: what protobuf takes, the Python objects over it, and, for a node, the layer that it becomes.
_NODE, _MESSAGE, _ELEMENT, _FIELD = 1800, 500, 100, 16
_COPIES = 4             # of tensors' bytes while a model is read
_SMALL_FILE = 128 << 10     # smaller ones cannot become more than 64 MB
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_CUT_BYTES = 1024       # raw data beyond this is left in the file: it can be no operand that shapes depend on
_WINDOW_BYTES = 1 << 16

# For a message, by the number of a field: the table of the message that the field holds, or what one element takes.
Table = dict[int, Any]


def check_cost(onnx: Any, data: bytes, limit: int) -> None:
    """Refuse a file whose parsing would take more memory than ``limit``.

    Raises
    ------
    ModelFileError
    """
    if len(data) < _SMALL_FILE:
        return
    left = limit - _COPIES * len(data)
    tables = _tables(onnx.ModelProto.DESCRIPTOR)
    stack = [(0, len(data), tables["onnx.ModelProto"])]
    while stack:
        at, end, table = stack.pop()
        while at < end:
            key, at = _varint(data, at, end)
            start, at = _content(data, at, end, key & 7)
            entry = table.get(key >> 3, _FIELD)
            if isinstance(entry, str):
                left -= _NODE if entry == "onnx.NodeProto" else _MESSAGE
                if at > start:
                    stack.append((start, at, tables[entry]))
            elif entry != _FIELD and key & 7 == _BYTES and entry != _ELEMENT:
                left -= entry * _count(data[start:at])
            else:
                left -= entry
            if left < 0:
                rule = f"let it be read in {limit:,} bytes: it consists of too many small parts (limits.max_memory)"
                raise ModelFileError(message("model", "size", rule, len(data)))


def without_weights(onnx: Any, file: StoredFile) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """A model without the large ``raw_data`` of its graph's initializers.

    Returns
    -------
    light : bytes
        The model in protobuf's form.
    places : dict of int to (offset, n_bytes)
        Where the data of an initializer is in the file, by its index in the graph.
    """
    key = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number << 3 | _BYTES
    data = _Window(file)
    graphs = [field for field in _fields(data, 0, file.size) if field[0] == key]
    if len(graphs) != 1:    # none, or several that protobuf merges
        return bytes(file.read(0, file.size)), {}
    [(_, before, start, stop)] = graphs
    parts, places = _light_graph(onnx, data, start, stop)
    graph = b"".join(parts)
    head, tail = file.read(0, before), file.read(stop, file.size - stop)
    return b"".join((head, _tag(key, len(graph)), graph, tail)), places


def _light_graph(onnx: Any, data: _Window, start: int, stop: int) -> tuple[list[bytes], dict[int, tuple[int, int]]]:
    key = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number << 3 | _BYTES
    raw_key = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number << 3 | _BYTES
    parts: list[bytes] = []
    places: dict[int, tuple[int, int]] = {}
    done, index = start, -1
    for number, before, first, last in _fields(data, start, stop):
        if number != key:
            continue
        index += 1
        raw = [f for f in _fields(data, first, last) if f[0] == raw_key] if last - first > _CUT_BYTES else []
        if len(raw) != 1 or raw[0][3] - raw[0][2] <= _CUT_BYTES:
            continue
        [(_, raw_before, raw_first, raw_last)] = raw
        tensor = data.bytes(first, raw_before) + data.bytes(raw_last, last)
        parts += (data.bytes(done, before), _tag(key, len(tensor)), tensor)
        places[index] = raw_first, raw_last - raw_first
        done = last
    return [*parts, data.bytes(done, stop)], places


def _fields(data: _Readable, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: key, where the field begins, where its content begins and ends."""
    while at < end:
        before = at
        key, at = _varint(data, at, end)
        first, at = _content(data, at, end, key & 7)
        yield key, before, first, at


def _tag(key: int, length: int) -> bytes:
    """What stands before ``length`` bytes of content."""
    out = bytearray()
    for value in (key, length):
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


class _Readable(Protocol):
    def __getitem__(self, at: int, /) -> int: ...


class _Window:
    """Bytes of a file by their position, a piece of it in memory at a time."""

    def __init__(self, file: StoredFile):
        self.file = file
        self.piece = b""
        self.begin = self.end = 0

    def __getitem__(self, at: int) -> int:
        if not self.begin <= at < self.end:
            self.piece = self.bytes(at, min(at + _WINDOW_BYTES, self.file.size))
            self.begin, self.end = at, at + len(self.piece)
        return self.piece[at - self.begin]

    def bytes(self, start: int, stop: int) -> bytes:
        """The bytes of a range."""
        if self.begin <= start and stop <= self.end:
            return self.piece[start - self.begin : stop - self.begin]
        return bytes(self.file.read(start, stop - start))


def _content(data: _Readable, at: int, end: int, kind: int) -> tuple[int, int]:
    """Where a field's content begins and ends."""
    if kind == _BYTES:
        length, at = _varint(data, at, end)
        stop = at + length
    elif kind == _VARINT:
        stop = _varint(data, at, end)[1]
    elif kind in (_FIXED64, _FIXED32):
        stop = at + (8 if kind == _FIXED64 else 4)
    else:
        raise ModelFileError(f"not an ONNX model, or a damaged one: byte {at} begins no field.")
    if stop > end:
        raise ModelFileError(f"not an ONNX model, or a damaged one: the field at byte {at} is longer than what holds it.")
    return at, stop


def _varint(data: _Readable, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ModelFileError(f"not an ONNX model, or a damaged one: no number ends at byte {at}.")


def _count(packed: bytes) -> int:
    """Numbers in a packed field; the last byte of each is below 128."""
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < 128))


@lru_cache(maxsize=1)
def _tables(root: Any) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    waiting = [root]
    for descriptor in waiting:      # grows while it is walked
        if descriptor.full_name in tables:
            continue
        table = tables[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                table[field.number] = field.message_type.full_name
                waiting.append(field.message_type)
            else:
                table[field.number] = _per_element(field)
    return tables


def _per_element(field: Any) -> int:
    packed = {field.TYPE_INT32: 4, field.TYPE_INT64: 40, field.TYPE_UINT64: 40}
    singular = getattr(field, "is_repeated", None) is False or (
        not hasattr(field, "is_repeated") and field.label != field.LABEL_REPEATED)
    if singular or field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return _FIELD
    return packed.get(field.type, _ELEMENT)
