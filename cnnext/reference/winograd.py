"""Winograd's convolution F(m x m, 3 x 3), from its definition: products of polynomials by their values at points.

The twin of the transforms. What a convolution is, `conv2d` says.
Source: A. Lavin, S. Gray, "Fast algorithms for convolutional neural networks", 2016.
"""

from __future__ import annotations

import numpy as np

from cnnext.reference._window import NO_PADDING, Array, Padding

# By m; infinity is the last point of each.
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))}


def winograd_matrices(m: int) -> tuple[Array, Array, Array]:
    """B^T (P, P), G (P, 3) and A^T (m, P) for P = m + 2 points: y = A^T [(G g) * (B^T d)].

    A^T and G evaluate at the points (at infinity: take the highest power), G over the products of a point's differences
    from the others. Row p of B^T holds the coefficients of the product of (x - q) over the other points q, that of infinity
    over all.
    """
    points = POINTS[m]
    others = [[q for q in points if q != p] for p in points]
    powers = np.array([[p**k for k in range(m + 2)] for p in points])
    scale = np.array([np.prod([p - q for q in rest]) for p, rest in zip(points, others)])
    at_infinity = np.eye(m + 2)
    g = np.vstack([powers[:, :3] / scale[:, None], at_infinity[2, :3]])
    a_t = np.vstack([powers[:, :m], at_infinity[m - 1, :m]]).T
    b_t = np.array([[*np.poly(rest)[::-1], 0.0] for rest in others] + [np.poly(points)[::-1]])
    return b_t, g, a_t


def winograd_source(tiles: Array, m: int) -> Array:
    """B^T d B.

    Parameters
    ----------
    tiles : (..., P, P, C), P = m + 2
    m : 2 or 4

    Returns
    -------
    (..., P, P, C)
    """
    b_t, _, _ = winograd_matrices(m)
    return np.einsum("pi,...ijc,qj->...pqc", b_t, tiles, b_t)


def winograd_weights(weights: Array, m: int) -> Array:
    """G g G^T: weights (3, 3, IC, OC) as (P, P, IC, OC)."""
    _, g, _ = winograd_matrices(m)
    return np.einsum("pi,ijkc,qj->pqkc", g, weights, g)


def winograd_result(products: Array, m: int) -> Array:
    """A^T M A: products (..., P, P, C) as pixels (..., m, m, C)."""
    _, _, a_t = winograd_matrices(m)
    return np.einsum("ip,...pqc,jq->...ijc", a_t, products, a_t)


def winograd_conv2d(src: Array, weights: Array, bias: Array | None = None, *, padding: Padding = NO_PADDING,
                    m: int = 4) -> Array:
    """`conv2d` of 3 x 3 windows at stride 1, tile by tile.

    Parameters
    ----------
    src : (N, IH, IW, IC)
    weights : (3, 3, IC, OC)
    bias : (OC,), optional
    padding : ((top, bottom), (left, right)), zeros
    m : 2 or 4

    Returns
    -------
    (N, OH, OW, OC)
    """
    oh, ow = (size + sum(pads) - 2 for size, pads in zip(src.shape[1:3], padding))
    beyond = [(0, -size % m) for size in (oh, ow)]
    padded = np.pad(np.pad(src, ((0, 0), *padding, (0, 0))), ((0, 0), *beyond, (0, 0)))
    dst = np.zeros((src.shape[0], oh + beyond[0][1], ow + beyond[1][1], weights.shape[3]), src.dtype)
    transformed = winograd_weights(weights, m)
    for i in range(0, oh, m):
        for j in range(0, ow, m):
            points = winograd_source(padded[:, i : i + m + 2, j : j + m + 2], m)
            products = np.einsum("npqk,pqkc->npqc", points, transformed)
            dst[:, i : i + m, j : j + m] = winograd_result(products, m)
    dst = dst[:, :oh, :ow]
    return dst if bias is None else dst + bias


def winograd_conv2d_backward_weights(src: Array, diff_dst: Array, *, padding: Padding = NO_PADDING, m: int = 4) -> Array:
    """The gradient of `winograd_conv2d` with respect to its weights: G^T (sum over tiles of V x (A dY A^T)) G.

    Parameters
    ----------
    src : (N, IH, IW, IC)
    diff_dst : (N, OH, OW, OC)
    padding : ((top, bottom), (left, right))
    m : 2 or 4

    Returns
    -------
    (3, 3, IC, OC)
    """
    _, g, a_t = winograd_matrices(m)
    oh, ow = diff_dst.shape[1:3]
    beyond = [(0, -size % m) for size in (oh, ow)]
    padded = np.pad(np.pad(src, ((0, 0), *padding, (0, 0))), ((0, 0), *beyond, (0, 0)))
    diff = np.pad(diff_dst, ((0, 0), *beyond, (0, 0)))
    sums = np.zeros((m + 2, m + 2, src.shape[3], diff_dst.shape[3]), src.dtype)
    for i in range(0, oh, m):
        for j in range(0, ow, m):
            points = winograd_source(padded[:, i : i + m + 2, j : j + m + 2], m)
            products = np.einsum("ip,nijc,jq->npqc", a_t, diff[:, i : i + m, j : j + m], a_t)
            sums += np.einsum("npqk,npqc->pqkc", points, products)
    return np.einsum("pi,pqkc,qj->ijkc", g, sums, g)
