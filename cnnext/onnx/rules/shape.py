"""Operators that move elements and change none."""

from __future__ import annotations

from math import prod

import numpy as np

from cnnext.graph.graph import FLOAT32, Value
from cnnext.layers.concat import Join
from cnnext.layers.reduce import Repeat
from cnnext.onnx.site import Site
from cnnext.onnx.support import Rule


def reshape(s: Site) -> Value:
    shape = s.shape(0)
    wanted = [int(n) for n in (s.contents(1).reshape(-1) if s.has(1) else s.attribute("shape", ()))]
    target = [shape[i] if n == 0 and not s.attribute("allowzero", 0) and i < len(shape) else n for i, n in enumerate(wanted)]
    if any(n < -1 for n in target) or target.count(-1) > 1:
        raise s.error("shape", "have extents of at least 0, and at most one -1", wanted)
    if -1 in target:
        rest = prod(n for n in target if n != -1)
        if rest == 0 or prod(shape) % rest:
            raise s.error("shape", f"hold the {prod(shape)} elements of the source", wanted)
        target[target.index(-1)] = prod(shape) // rest
    if prod(target) != prod(shape):
        raise s.error("shape", f"hold the {prod(shape)} elements of the source", wanted)
    return s.reshape(s.value(0), tuple(target))


def flatten(s: Site) -> Value:
    shape = s.shape(0)
    axis = int(s.attribute("axis", 1))
    if not -len(shape) <= axis <= len(shape):
        raise s.error("axis", f"lie from {-len(shape)} to {len(shape)}", axis)
    axis = axis + len(shape) if axis < 0 else axis
    return s.reshape(s.value(0), (prod(shape[:axis]), prod(shape[axis:])))


def squeeze(s: Site) -> Value:
    shape = s.shape(0)
    axes = s.axes(1, len(shape))
    if axes is None:
        axes = tuple(i for i, n in enumerate(shape) if n == 1)
    if any(shape[a] != 1 for a in axes):
        raise s.error("axes", "name axes of extent 1", axes)
    return s.reshape(s.value(0), tuple(n for i, n in enumerate(shape) if i not in axes))


def unsqueeze(s: Site) -> Value:
    shape = s.shape(0)
    given = s.contents(1).reshape(-1) if s.has(1) else s.attribute("axes", ())
    rank = len(shape) + len(given)
    axes = sorted({int(a) % rank for a in given if -rank <= a < rank})
    if len(axes) != len(given):
        raise s.error("axes", f"be different axes of a value of rank {rank}", list(given))
    rest = iter(shape)
    return s.reshape(s.value(0), tuple(1 if i in axes else next(rest) for i in range(rank)))


def transpose(s: Site) -> Value:
    rank = len(s.shape(0))
    axes = [int(a) for a in s.attribute("perm", range(rank)[::-1])]
    if sorted(axes) != list(range(rank)):
        raise s.error("perm", f"be a permutation of 0 to {rank - 1}", axes)
    return s.transpose(s.value(0), axes)


def concat(s: Site) -> Value | None:
    values = [v for v in s.inputs if v is not None]
    shapes = [tuple(n or 0 for n in v.shape) for v in values]
    if not shapes or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise s.error("inputs", "have one rank", shapes)
    axis = s.axis(0, default=1)
    values = [v for v, shape in zip(values, shapes, strict=True) if prod(shape)] or values[:1]
    return values[0] if len(values) == 1 else s.apply(Join(axis, name=s.name), *values)


def expand(s: Site) -> Value | None:
    shape = s.shape(0)
    given = tuple(int(n) for n in s.contents(1).reshape(-1))
    if s.value(0).dtype != FLOAT32 or len(given) > 8 or 0 in (*shape, *given):
        return None
    try:
        target = np.broadcast_shapes(shape, given)
    except ValueError:
        raise s.error("shape", "broadcast with that of the source", given) from None
    return s.value(0) if target == shape else s.apply(Repeat(target, s.name), s.value(0))


def identity(s: Site) -> Value:
    return s.value(0)


def dropout(s: Site) -> list[Value] | Value | None:
    """The identity in inference; the mask, where it is asked for, is all true."""
    if s.has(2) and bool(s.contents(2).reshape(-1)[0]):
        return None
    x = s.value(0)
    if len(s.op.wanted) < 2 or not s.op.wanted[1]:
        return x
    return [x, s.constant(np.ones(s.shape(0), bool if s.op.version >= 10 else x.dtype))]


def shape_of(s: Site) -> Value:
    shape = np.array(s.shape(0), np.int64)
    start, end = int(s.attribute("start", 0)), s.attribute("end")
    return s.constant(shape[start : None if end is None else int(end)])


def size(s: Site) -> Value:
    return s.constant(np.array(prod(s.shape(0)), np.int64))


def cast(s: Site) -> Value | None:
    """A cast to the type that the value has."""
    return s.value(0) if s.value(0).dtype == FLOAT32 and int(s.attribute("to", 0)) == 1 else None


RULES: dict[str, Rule] = {
    "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Transpose": transpose,
    "Concat": concat, "Expand": expand, "Identity": identity, "Dropout": dropout, "Shape": shape_of, "Size": size,
    "Cast": cast,
}
ANY_TYPE = RULES.keys()
