"""Regularizers: penalties on the size of weights, added to the loss. Names and defaults are Keras's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnext.errors import message, unknown
from cnnext.layers.attributes import as_number

if TYPE_CHECKING:
    from cnnext.graph.graph import Graph, Parameter, Value


@dataclass(frozen=True)
class L1L2:
    """The penalty ``l1 * sum |w| + l2 * sum w**2``; its gradient is ``l1 * sign(w) + 2 * l2 * w``.

    Parameters
    ----------
    l1, l2 : float
        At least 0.
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        for name in ("l1", "l2"):
            object.__setattr__(self, name, as_number("L1L2", name, getattr(self, name), minimum=0))


def L1(l1: float = 0.01) -> L1L2:
    """The penalty ``l1 * sum |w|``: many weights become 0."""
    return L1L2(l1=l1)


def L2(l2: float = 0.01) -> L1L2:
    """The penalty ``l2 * sum w**2``: weights stay small.

    ``weight_decay`` of ``SGD`` is ``2 * l2`` and costs no pass over memory; the loss does not show it.
    """
    return L1L2(l2=l2)


REGULARIZERS = {"l1": L1(), "l2": L2(), "l1_l2": L1L2(0.01, 0.01)}


def get_regularizer(where: str, name: str, value: Any) -> L1L2 | None:
    """A regularizer by name ("l1", "l2", "l1_l2"), as an object, or as the pair (l1, l2) of model files.

    Raises
    ------
    ValueError
        If the name is not known, or a number is out of range.
    TypeError
        If it is none of these.
    """
    if value is None or isinstance(value, L1L2):
        return value
    if isinstance(value, str):
        if value not in REGULARIZERS:
            raise ValueError(f"{where}: " + unknown("regularizer", value, REGULARIZERS))
        return REGULARIZERS[value]
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return L1L2(*value)
    raise TypeError(message(where, name, "be None, a regularizer's name, or cx.L1(...), cx.L2(...), cx.L1L2(...)", value))


def with_penalties(g: Graph, loss: Value, parameters: Iterable[Parameter]) -> Value:
    """Append the penalties on parameters, and their sum with the loss, shape (1,)."""
    from cnnext.graph.graph import FLOAT32, Value
    from cnnext.layers.elementwise import add, scaled
    from cnnext.layers.reduce import ReduceL1, with_shape
    from cnnext.training.loss_operators import SumSquares

    terms = [loss]
    for p in parameters:
        if p.regularizer is None:
            continue
        w = Value(p.shape, FLOAT32, p.name, parameter=p)
        if p.regularizer.l1:
            size = with_shape(g, g.apply1(ReduceL1(name=f"{p.name}/l1"), w), (1,))
            terms.append(scaled(g, size, p.regularizer.l1))
        if p.regularizer.l2:
            terms.append(scaled(g, g.apply1(SumSquares(name=f"{p.name}/l2"), w), p.regularizer.l2))
    return add(g, *terms) if len(terms) > 1 else loss
