"""Moves transposes towards the outputs until they meet their inverse: channels-first models then compute channels-last.

A layer between two transposes need not see them. With P a permutation of axes and f a layer that treats the axes alike,
or that knows its axes by number (``Layer.commuted``),

    f(P(x)) = P'(f'(x)),

so P moves behind f; P followed by its inverse vanishes. Reshapes that split or merge axes commute in the same way,
after at most one transpose that brings the axes to be merged together: the channel shuffle of ShuffleNet is what is
left of its reshape, transpose, reshape.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from cnnext.graph.graph import Graph, Node, Shape, Value, constant
from cnnext.plugins import contained

Axes = tuple[int, ...]


def sink_transposes(graph: Graph) -> Graph:
    """A copy of the graph in which transposes that can meet their inverse are gone, and the others stand late."""
    if not any(_is_transpose(node) for node in graph.nodes):
        return graph
    return graph.rebuild(_sink).rebuild(_as_reshape)


def _is_transpose(node: Node | None) -> bool:
    from cnnext.layers.permute import Transpose

    return node is not None and isinstance(node.layer, Transpose)


def _sink(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
    if _is_dense(node):
        return _sink_into_weights(g, node, inputs[0])
    moved = [v for v in inputs if _is_transpose(v.node)]
    if not moved or node.epilogue is not None:
        return None
    if _is_transpose(node):
        return [_transposed(g, inputs[0], node.layer.axes, node.name)]  # type: ignore[attr-defined]
    if _is_reshape(node):
        return _sink_below_reshape(g, node, inputs[0])
    return _sink_below(g, node, inputs, max(moved, key=_size))


def _size(value: Value) -> int:
    return prod(n or 0 for n in value.shape)


def _transposed(g: Graph, value: Value, axes: Axes, name: str) -> Value:
    """The value with its axes permuted; a transpose that made it is taken into account, a constant is changed at once."""
    from cnnext.layers.permute import Transpose

    while value.node is not None and isinstance(value.node.layer, Transpose):
        axes = tuple(value.node.layer.axes[a] for a in axes)
        value = value.node.inputs[0]
    if axes == tuple(range(len(axes))):
        return value
    if value.data is not None:
        return constant(value.data.transpose(axes), value.name)
    return g.apply1(Transpose(axes, name=name), value)


def _sink_below(g: Graph, node: Node, inputs: list[Value], largest: Value) -> list[Value] | None:
    """f(P(x), ...) as P'(f'(x, ...)), where what is not under P costs less to bring there than P itself."""
    from cnnext.layers.permute import inverse

    assert largest.node is not None
    axes: Axes = largest.node.layer.axes  # type: ignore[attr-defined]
    with contained(node.layer, "commuted"):
        commuted = node.layer.commuted(node, axes)
    if commuted is None:
        return None
    others = [v for v in inputs if not v.is_persistent and not (_is_transpose(v.node) and _axes(v) == axes)]
    if sum(map(_size, others)) > sum(map(_size, inputs)) // 2:
        return None
    layer, axes_out = commuted
    back = inverse(axes)
    sources = []
    for value in inputs:
        if len(value.shape) < len(axes):
            value = _reshaped(g, value, (1,) * (len(axes) - len(value.shape)) + tuple(value.shape))
        sources.append(_transposed(g, value, back, f"{value.name}/aligned"))
    weights = dict(node.weights)
    made = g.apply(layer, *sources, weights=weights, name=node.name)
    return [_transposed(g, v, axes_out, f"{v.name}/transposed") for v in made]


def _axes(value: Value) -> Axes:
    assert value.node is not None
    return value.node.layer.axes  # type: ignore[attr-defined]


# Reshapes


def _is_reshape(node: Node | None) -> bool:
    from cnnext.layers.flatten import Flatten
    from cnnext.layers.reshape import Reshape, ReshapeTo

    return node is not None and isinstance(node.layer, (Flatten, Reshape, ReshapeTo))


def _reshaped(g: Graph, value: Value, shape: Shape) -> Value:
    from cnnext.layers.reshape import ReshapeTo

    if value.shape == tuple(shape):
        return value
    if value.data is not None:
        return constant(value.data.reshape([n or 0 for n in shape]), value.name)
    return g.apply1(ReshapeTo(shape, f"{value.name}/reshaped"), value)


def _sink_below_reshape(g: Graph, node: Node, value: Value) -> list[Value] | None:
    assert value.node is not None
    axes, x = _axes(value), value.node.inputs[0]
    shape, target = [n or 0 for n in value.shape], [n or 0 for n in node.output.shape]
    blocks = matching_blocks(shape, target)
    if blocks is None:
        return None
    # Blocks stand in the order in which x has them; inside a block the axes stand as the reshape wants them.
    order = sorted(range(len(blocks)), key=lambda i: min((axes[a] for a in blocks[i][0]), default=-1))
    gather = tuple(axes[a] for i in order for a in blocks[i][0])
    made = [a for i in order for a in blocks[i][1]]
    source = _transposed(g, x, gather, f"{node.name}/gathered")
    result = _reshaped(g, source, tuple(target[a] for a in made))
    return [_transposed(g, result, tuple(made.index(a) for a in range(len(target))), node.name)]


def matching_blocks(shape: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """The finest blocks of neighbouring axes of ``shape`` and ``target`` that hold the same elements.

    None for shapes without elements.
    """
    if prod(shape) == 0 or prod(shape) != prod(target):
        return None
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(target):
        if i == len(shape) or j == len(target):     # what is left are extents of 1
            rest = (list(range(i, len(shape))), list(range(j, len(target))))
            if blocks:
                blocks[-1][0].extend(rest[0])
                blocks[-1][1].extend(rest[1])
            else:
                blocks.append(rest)
            break
        source, made = [i], [j]
        size, made_size = shape[i], target[j]
        i, j = i + 1, j + 1
        while size != made_size:
            if size < made_size:
                size *= shape[i]
                source.append(i)
                i += 1
            else:
                made_size *= target[j]
                made.append(j)
                j += 1
        blocks.append((source, made))
    return blocks


# Dense layers


def _is_dense(node: Node) -> bool:
    from cnnext.layers.dense import Dense

    return isinstance(node.layer, Dense)


def _sink_into_weights(g: Graph, node: Node, value: Value) -> list[Value] | None:
    """A dense layer over all that a sample holds does not mind the order of what it reads, if its weights follow."""
    from cnnext.layers.permute import inverse

    flat = value.node
    if g.training or flat is None or not _is_reshape(flat) or not _is_transpose(flat.inputs[0].node):
        return None
    before = flat.inputs[0]
    axes = _axes(before)
    weights = node.weights["weights"]
    if len(value.shape) != 2 or axes[0] != 0 or before.shape[0] != value.shape[0] or not weights.is_fixed:
        return None
    assert before.node is not None
    x, rank = before.node.inputs[0], len(axes)
    rows = _reshaped(g, weights, (*before.shape[1:], weights.shape[1]))
    back = (*(a - 1 for a in inverse(axes)[1:]), rank - 1)
    moved = _reshaped(g, _transposed(g, rows, back, f"{weights.name}/rows"), weights.shape)
    source = _reshaped(g, x, value.shape)
    return g.apply(node.layer, source, weights={**node.weights, "weights": moved}, name=node.name)


# What is left


def _as_reshape(g: Graph, node: Node, inputs: list[Value]) -> list[Value] | None:
    """A transpose that moves extents of 1 alone is a reshape, which costs nothing."""
    if not _is_transpose(node):
        return None
    axes = [a for a in node.layer.axes if inputs[0].shape[a] != 1]  # type: ignore[attr-defined]
    if axes != sorted(axes) or any(n is None for n in inputs[0].shape):
        return None
    return [_reshaped(g, inputs[0], node.output.shape)]

