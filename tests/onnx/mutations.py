"""Damage to ONNX models: by bytes, and by fields of their protobuf messages; each case follows from its seed alone."""

from __future__ import annotations

import random
from typing import Any

from onnx import ModelProto

WHOLE = (0, 1, 2, 3, 5, 7, 8, 16, 64, 255, 1000, 65_537, -1, -2, -3, 2**20, 2**31 - 1, 2**31, 2**32, 2**33 + 1, 2**40,
         2**62, 2**63 - 1, -2**31, -2**62, -2**63)
REAL = (0.0, -1.0, 0.5, 1e-30, 1e30, 3e38, float("nan"), float("inf"), -float("inf"))
BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
KINDS = ("flip", "overwrite", "truncate", "insert", "remove", "repeat", "fields")


def mutate(model: bytes, seed: int) -> tuple[str, bytes]:
    """What was done, and the damaged model. Half of the cases change fields, since most damage to bytes is found early."""
    draw = random.Random(f"{len(model)} {seed}")
    kind = draw.choice((*KINDS, *["fields"] * 6))
    return kind, _by_fields(model, draw) if kind == "fields" else _by_bytes(model, kind, draw)


def _by_bytes(model: bytes, kind: str, draw: random.Random) -> bytes:
    data = bytearray(model)
    if kind == "truncate":
        return bytes(data[: draw.randrange(len(data))])
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        at, n = draw.randrange(len(data)), draw.choice((1, 1, 2, 4, 30))
        if kind == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif kind == "overwrite":
            data[at] = draw.choice((*BYTES, draw.randrange(256)))
        elif kind == "insert":
            data[at:at] = bytes(draw.choice((*BYTES, draw.randrange(256))) for _ in range(n))
        elif kind == "remove":
            del data[at : at + n]
        else:
            data[at:at] = data[at : at + n]
    return bytes(data)


def _by_fields(model: bytes, draw: random.Random) -> bytes:
    proto = ModelProto.FromString(model)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = _places(proto)
        by_message: dict[str, list] = {}
        for place in places:    # tensors have few fields and nodes many: choose the kind of message first
            by_message.setdefault(type(place[0]).__name__, []).append(place)
        message, field = draw.choice(by_message[draw.choice(sorted(by_message))])
        _change(message, field, draw, places)
    return proto.SerializeToString()


def _places(message: Any) -> list[tuple[Any, Any]]:
    """All fields that are set, with their messages."""
    found = []
    for field, content in message.ListFields():
        found.append((message, field))
        if field.type == field.TYPE_MESSAGE:
            for inner in content if _is_repeated(message, field) else [content]:
                found += _places(inner)
    return found


def _is_repeated(message: Any, field: Any) -> bool:
    return hasattr(getattr(message, field.name), "append")


def _change(message: Any, field: Any, draw: random.Random, places: list) -> None:
    content = getattr(message, field.name)
    if not _is_repeated(message, field):
        if draw.random() < 0.15 or field.type == field.TYPE_MESSAGE:
            message.ClearField(field.name)
        else:
            _assign(message, field, _new(field, content, draw, places))
        return
    items, action = list(content), draw.choice(("replace", "replace", "remove", "repeat", "swap", "append"))
    i, j = draw.randrange(len(items)), draw.randrange(len(items))
    if action == "remove":
        del items[i]
    elif action == "repeat":
        items.insert(j, items[i])
    elif action == "swap":
        items[i], items[j] = items[j], items[i]
    elif field.type != field.TYPE_MESSAGE:
        new = _new(field, items[i], draw, places)
        items[i : i + (action == "replace")] = [new]
    _refill(message, field, items)


def _refill(message: Any, field: Any, items: list) -> None:
    if field.type == field.TYPE_MESSAGE:
        items = [type(item).FromString(item.SerializePartialToString()) for item in items]
    message.ClearField(field.name)
    try:
        getattr(message, field.name).extend(items)
    except ValueError:  # beyond the range of the field
        getattr(message, field.name).extend([item % 2**31 for item in items])


def _assign(message: Any, field: Any, new: Any) -> None:
    try:
        setattr(message, field.name, new)
    except ValueError:  # beyond the range of the field
        setattr(message, field.name, new % 2**31)


def _new(field: Any, old: Any, draw: random.Random, places: list) -> Any:
    if field.type == field.TYPE_STRING:
        others = [getattr(m, f.name) for m, f in places if f.type == f.TYPE_STRING and not _is_repeated(m, f)]
        names = [name for m, f in places if f.type == f.TYPE_STRING and _is_repeated(m, f) for name in getattr(m, f.name)]
        return draw.choice((*others, *names, *names, "", "x" * 10_000, "é\n\0/.."))
    if field.type == field.TYPE_BYTES:
        integers = b"".join((draw.choice(WHOLE) % 2**64).to_bytes(8, "little") for _ in range(0, len(old), 8))
        noise = bytes(draw.randrange(256) for _ in old)
        return draw.choice((b"", old[:-1], old + b"\0", noise, b"\xff" * len(old), integers[: len(old)], integers))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return draw.choice(REAL)
    if field.type == field.TYPE_ENUM:
        return draw.choice([v.number for v in field.enum_type.values])
    return draw.choice((*WHOLE, old + 1, old - 1, -old, 2 * old, draw.randrange(30)))
