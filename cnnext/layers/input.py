"""``Input``: where data enters a network."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from cnnext.errors import message
from cnnext.graph.graph import Value
from cnnext.layers.attributes import as_int

_numbers = itertools.count()


def Input(shape: Iterable[int | None], name: str | None = None) -> Value:
    """A value that the caller feeds: ``(N, *shape)`` float32, N being any batch size.

    Parameters
    ----------
    shape : tuple of int or None
        Without the batch: ``(28, 28, 1)`` for grey images, ``(224, 224, 3)`` for colour ones, ``(3, 28, 28)`` before layers
        with ``data_format="channels_first"``. None leaves an extent open until the data comes.
    name : str, optional
        The name under which ``InferenceSession.run`` takes the array.

    Raises
    ------
    ValueError
        If an extent is not a whole number of at least 1.
    """
    number = next(_numbers)
    name = name if name is not None else "input" if number == 0 else f"input_{number}"
    where = f"input {name!r}"
    if isinstance(shape, (str, int)) or not isinstance(shape, Iterable):
        raise ValueError(message(where, "shape", "be a tuple of whole numbers", shape))
    extents: list[Any] = [None if n is None else as_int(where, "shape", n, minimum=1) for n in shape]
    return Value((None, *extents), name=name)
