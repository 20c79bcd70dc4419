"""Pooling twins: forward against loops, backward against central differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.reference import numerical_gradient

SETTINGS = settings(max_examples=60, deadline=None)
PADDING = st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2)))


def close(actual, expected, atol=1e-8):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=atol)


@st.composite
def pools(draw):
    """A source of distinct values, none near 0, and the arguments of a pool, some with a partial last window."""
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(PADDING)
    size, output_size = [], []
    for axis in range(2):
        extent = (kernel[axis] - 1) * dilation[axis] + 1
        smallest = max(1, extent - sum(padding[axis]))
        size.append(draw(st.integers(smallest, smallest + 4)))
        padded = size[axis] + sum(padding[axis])
        whole = (padded - extent) // strides[axis] + 1
        one_more = draw(st.booleans()) and whole * strides[axis] < padded
        output_size.append(whole + one_more)
    options = {"kernel": kernel, "strides": strides, "padding": padding, "dilation": dilation}
    if draw(st.booleans()):
        options["output_size"] = tuple(output_size)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 2)), *size, draw(st.integers(1, 2)))
    magnitudes = 0.5 + 0.01 * rng.permutation(np.prod(shape)).reshape(shape)
    return magnitudes * rng.choice([-1.0, 1.0], shape), options, rng


def windows(src, kernel, strides, padding, dilation, output_size=None):
    """For each (n, oh, ow, c): the source positions its window sees, and how many lie in the padded source."""
    (n_batch, height, width, channels), ((top, bottom), (left, right)) = src.shape, padding
    if output_size is None:
        output_size = (
            (height + top + bottom - (kernel[0] - 1) * dilation[0] - 1) // strides[0] + 1,
            (width + left + right - (kernel[1] - 1) * dilation[1] - 1) // strides[1] + 1,
        )
    for n, oh, ow, c in np.ndindex(n_batch, *output_size, channels):
        seen, in_padded = [], 0
        for kh, kw in np.ndindex(kernel):
            ih, iw = oh * strides[0] + kh * dilation[0] - top, ow * strides[1] + kw * dilation[1] - left
            in_padded += ih < height + bottom and iw < width + right
            if 0 <= ih < height and 0 <= iw < width:
                seen.append((n, ih, iw, c))
        yield (n, oh, ow, c), seen, in_padded


@SETTINGS
@given(pools())
def test_max_pool2d_is_its_definition(case):
    src, options, _ = case
    dst = reference.max_pool2d(src, **options)
    for pixel, seen, _ in windows(src, **options):
        assert dst[pixel] == max((src[position] for position in seen), default=-np.inf)


@SETTINGS
@given(pools(), st.booleans())
def test_avg_pool2d_is_its_definition(case, count_include_pad):
    src, options, _ = case
    dst = reference.avg_pool2d(src, count_include_pad=count_include_pad, **options)
    for pixel, seen, in_padded in windows(src, **options):
        divisor = in_padded if count_include_pad else len(seen)
        assert dst[pixel] == pytest.approx(sum(src[position] for position in seen) / max(divisor, 1))


@SETTINGS
@given(pools(), st.sampled_from([1, 2, 3, 2.5]))
def test_lp_pool2d_is_its_definition(case, power):
    src, options, _ = case
    dst = reference.lp_pool2d(src, power=power, **options)
    for pixel, seen, _ in windows(src, **options):
        assert dst[pixel] == pytest.approx(sum(abs(src[position]) ** power for position in seen) ** (1 / power))


@SETTINGS
@given(pools())
def test_max_pool2d_gives_its_gradient_to_the_first_maximum(case):
    src, options, rng = case
    # Ties, and minus infinity, which must not be taken for a tap outside the source.
    src = rng.choice([-np.inf, 0.0, 1.0], src.shape)
    dst = reference.max_pool2d(src, **options)
    diff_dst = rng.standard_normal(dst.shape)
    expected = np.zeros_like(src)
    for pixel, seen, _ in windows(src, **options):
        if seen:
            expected[max(seen, key=lambda position: src[position])] += diff_dst[pixel]
    close(reference.max_pool2d_backward(src, diff_dst, **options), expected)


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("max_pool2d", {}),
        ("avg_pool2d", {"count_include_pad": False}),
        ("avg_pool2d", {"count_include_pad": True}),
        ("lp_pool2d", {"power": 1}),
        ("lp_pool2d", {"power": 2}),
        ("lp_pool2d", {"power": 3.5}),
    ],
)
@SETTINGS
@given(case=pools())
def test_backward(name, constants, case):
    src, options, rng = case
    pool, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    dst = pool(src, **options, **constants)
    # A window that sees nothing has the constant -infinity, whose differences are no number.
    seen = np.isfinite(dst)
    diff_dst = rng.standard_normal(dst.shape)

    def pool_seen(x):
        return np.where(seen, pool(x, **options, **constants), 0.0)

    close(
        backward(src, diff_dst, **options, **constants),
        numerical_gradient(pool_seen, src, diff_dst),
        atol=1e-7,
    )


@pytest.mark.parametrize("power", [1, 1.5, 2, 3])
def test_lp_pool2d_gradient_is_0_where_the_norm_is_0(power):
    src = np.zeros((1, 2, 4, 1))
    src[0, :, 2:, 0] = [[3.0, 0.0], [0.0, -4.0]]
    options = {"kernel": (2, 2), "strides": (2, 2), "power": power}
    with np.errstate(all="raise"):
        diff_src = reference.lp_pool2d_backward(src, np.ones((1, 1, 2, 1)), **options)
    norm = (3.0**power + 4.0**power) ** (1 / power)
    expected = np.zeros_like(src)
    expected[0, 0, 2, 0], expected[0, 1, 3, 0] = (3 / norm) ** (power - 1), -((4 / norm) ** (power - 1))
    close(diff_src, expected)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 2)])
def test_global_pools(shape):
    rng = np.random.default_rng(4)
    src = rng.permutation(np.prod(shape)).reshape(shape) * 0.1
    diff_dst = rng.standard_normal((shape[0], 1, 1, shape[3]))
    for n, c in np.ndindex(shape[0], shape[3]):
        values = [src[n, h, w, c] for h, w in np.ndindex(shape[1:3])]
        assert reference.global_max_pool2d(src)[n, 0, 0, c] == max(values)
        assert reference.global_avg_pool2d(src)[n, 0, 0, c] == pytest.approx(sum(values) / len(values))
    close(
        reference.global_max_pool2d_backward(src, diff_dst),
        numerical_gradient(reference.global_max_pool2d, src, diff_dst),
    )
    close(
        reference.global_avg_pool2d_backward(src, diff_dst),
        numerical_gradient(reference.global_avg_pool2d, src, diff_dst),
    )


def test_global_max_pool2d_gives_its_gradient_to_the_first_maximum():
    diff_src = reference.global_max_pool2d_backward(np.ones((1, 2, 3, 1)), np.full((1, 1, 1, 1), 5.0))
    assert diff_src.ravel().tolist() == [5, 0, 0, 0, 0, 0]


def test_float32_stays_float32():
    src = np.random.default_rng(5).standard_normal((1, 4, 4, 2), np.float32)
    options = {"kernel": (2, 2), "strides": (2, 2), "padding": ((1, 0), (0, 1))}
    for name in ("max_pool2d", "avg_pool2d", "lp_pool2d"):
        dst = getattr(reference, name)(src, **options)
        assert dst.dtype == np.float32
        assert getattr(reference, f"{name}_backward")(src, dst, **options).dtype == np.float32
    for name in ("global_max_pool2d", "global_avg_pool2d"):
        dst = getattr(reference, name)(src)
        assert dst.dtype == np.float32
        assert getattr(reference, f"{name}_backward")(src, dst).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": (5, 1)}, r"max_pool2d: `kernel` must span no more than the padded source \(4, 4\)"),
        ({"kernel": (2, 2), "output_size": (3, 2)}, "`output_size` must let each window begin in the padded source"),
        ({"kernel": (2, 2), "output_size": (0, 2)}, "`output_size` must let each window begin in the padded source"),
        ({"kernel": (2, 2), "dilation": (0, 1)}, "`dilation` must be two integers of at least 1"),
    ],
)
def test_max_pool2d_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        reference.max_pool2d(np.zeros((1, 4, 4, 1)), strides=(2, 2), **options)


def test_lp_pool2d_refuses_a_power_below_1():
    with pytest.raises(ValueError, match=r"lp_pool2d: `power` must be at least 1. Received power=0.5"):
        reference.lp_pool2d(np.zeros((1, 4, 4, 1)), kernel=(2, 2), strides=(2, 2), power=0.5)
