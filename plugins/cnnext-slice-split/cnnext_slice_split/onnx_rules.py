"""How ONNX's slicing operators become layers of this package (entry points of the group ``cnnext.onnx``).

A rule that returns None leaves its form to NumPy: other element types, cuts along the batch, steps other than 1.
"""

from __future__ import annotations

from cnnext.graph.graph import FLOAT32, Value
from cnnext.layers.concat import Narrow
from cnnext.onnx.site import Site
from cnnext_slice_split.regions import Slice, Split
from cnnext_slice_split.shuffle import DepthToSpace, SpaceToDepth


def slice_(s: Site) -> Value | None:
    """Slice: one box, without a copy."""
    shape = s.shape(0)
    starts, ends, axes, steps = (_numbers(s, i, name) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1))
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else [a % len(shape) for a in axes]
    if steps is not None and any(step != 1 for step in steps):
        return None
    box = [(0, n) for n in shape]
    for start, end, axis in zip(starts, ends, axes, strict=True):
        extent = shape[axis]
        first, last = (min(max(i + extent if i < 0 else i, 0), extent) for i in (start, end))
        if first >= last:
            return None
        box[axis] = (first, last)
    if not box or s.value(0).dtype != FLOAT32:
        return None
    if box[0] != (0, shape[0]):     # the layer leaves the batch whole
        return _narrowed(s, box)
    if all(part == (0, n) for part, n in zip(box, shape, strict=True)):
        return s.value(0)
    begin, size = [first for first, _ in box[1:]], [last - first for first, last in box[1:]]
    return s.apply(Slice(begin, size, name=s.name), s.value(0))


def _narrowed(s: Site, box: list[tuple[int, int]]) -> Value:
    value = s.value(0)
    for axis, (first, last) in enumerate(box):
        if (first, last) != (0, value.shape[axis]):
            value = s.apply(Narrow(axis, first, last - first, s.name), value)
    return value


def _numbers(s: Site, i: int, name: str) -> list[int] | None:
    if s.has(i):
        return [int(n) for n in s.contents(i).reshape(-1)]
    given = s.attribute(name)
    return None if given is None else [int(n) for n in given]


def split(s: Site) -> list[Value] | None:
    """Split: parts along an axis, without a copy."""
    shape = s.shape(0)
    axis = s.axis(0, default=0)
    sections = _numbers(s, 1, "split")
    n_outputs = len(s.op.wanted)
    if sections is None:
        size = -(-shape[axis] // int(s.attribute("num_outputs", n_outputs)))
        sections = [min(size, shape[axis] - i * size) for i in range(n_outputs)]
    if axis == 0 or len(sections) != n_outputs or min(sections) < 1 or sum(sections) != shape[axis]:
        return None
    parts = s.g.apply(Split(sections, axis, name=s.name), s.value(0), name=s.name)
    return [part for part, wanted in zip(parts, s.op.wanted, strict=True) if wanted]


def depth_to_space(s: Site) -> Value | None:
    """DepthToSpace."""
    layer = DepthToSpace(int(s.attribute("blocksize", 0)), str(s.attribute("mode", "DCR")), data_format="channels_first",
                         name=s.name)
    return s.apply(layer, s.value(0)) if len(s.shape(0)) == 4 else None


def space_to_depth(s: Site) -> Value | None:
    """SpaceToDepth."""
    layer = SpaceToDepth(int(s.attribute("blocksize", 0)), str(s.attribute("mode", "DCR")), data_format="channels_first",
                         name=s.name)
    return s.apply(layer, s.value(0)) if len(s.shape(0)) == 4 else None
