"""The twin of every backward twin: central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnnext.reference._window import Array


def numerical_gradient(function: Callable[[Array], Array], x: Array, diff_dst: Array, step: float = 1e-5) -> Array:
    """Gradient of ``sum(diff_dst * function(x))`` with respect to x, by central differences.

    Parameters
    ----------
    function : from an array of the shape of x to one of the shape of ``diff_dst``
    x : float64
    diff_dst : a projection of the result, float64
    step : exact for functions linear in x; otherwise the error is of the order ``step**2 + 1e-16 / step``

    Returns
    -------
    float64 array of the shape of x

    Raises
    ------
    TypeError
        If x is not float64, where the differences would be lost in rounding.
    """
    if x.dtype != np.float64:
        raise TypeError(f"numerical_gradient: `x` must be float64. Received x={x.dtype}.")
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        difference = function(above) - function(below)
        gradient[index] = (diff_dst * difference).sum() / (above[index] - below[index])
    return gradient
