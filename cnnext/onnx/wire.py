"""What parsing an ONNX file would cost, told from its bytes before protobuf allocates.

Protobuf and Python spend hundreds of bytes on a message of two: ten megabytes of empty nodes become three gigabytes. The
messages are walked as they lie in the file (https://protobuf.dev/programming-guides/encoding/): keys, lengths, nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from cnnext.errors import ModelFileError, message

# Bytes, measured: what protobuf takes, the Python objects over it, and, for a node, the layer that it becomes.
_NODE, _MESSAGE, _ELEMENT, _FIELD = 1800, 500, 100, 16
_COPIES = 4             # of tensors' bytes while a model is read
_SMALL_FILE = 128 << 10     # smaller ones cannot become more than 64 MB
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

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
                rule = f"let it be read in {limit:,} bytes: it consists of too many small parts"
                raise ModelFileError(message("model", "size", rule, len(data)))


def _content(data: bytes, at: int, end: int, kind: int) -> tuple[int, int]:
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


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
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
