"""Output sizes against the definition (which windows fit), and pixels that no window touches against counting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cnnext as cx
from cnnext.geometry import axis_padding, same_padding, unreached, window_extent

SIZE = st.integers(1, 40)
KERNEL = st.integers(1, 9)
STRIDE = st.integers(1, 6)
DILATION = st.integers(1, 4)
PADS = st.tuples(st.integers(0, 9), st.integers(0, 9))


def windows(size, kernel, stride, padding, dilation, ceil_mode):
    """First pixels of the windows, by walking over the padded image."""
    before, after = padding
    starts, start = [], -before
    while True:
        fits = start + window_extent(kernel, dilation) <= size + after
        last_partial = ceil_mode and starts and start - stride + window_extent(kernel, dilation) < size + after
        if not fits and not (last_partial and start < size):
            return starts
        starts.append(start)
        start += stride


@given(SIZE, KERNEL, STRIDE, PADS, DILATION, st.booleans())
def test_explicit_padding_counts_the_windows_that_fit(size, kernel, stride, padding, dilation, ceil_mode):
    starts = windows(size, kernel, stride, padding, dilation, ceil_mode)
    if not starts:
        with pytest.raises(ValueError, match=r"`kernel` must fit"):
            cx.conv_output_size(size, kernel, stride, padding, dilation, ceil_mode)
    else:
        assert cx.conv_output_size(size, kernel, stride, padding, dilation, ceil_mode) == len(starts)


@given(SIZE, KERNEL, STRIDE, DILATION)
def test_same_padding_is_the_smallest_that_gives_ceil_of_size_over_stride(size, kernel, stride, dilation):
    before, after = same_padding(size, kernel, stride, dilation)
    out = cx.conv_output_size(size, kernel, stride, "same", dilation)
    assert (out - 1) * stride < size <= out * stride
    assert after - before in (0, 1)
    last = (out - 1) * stride + window_extent(kernel, dilation)
    assert last <= size + before + after
    if before + after:
        assert last == size + before + after


@given(SIZE, KERNEL, STRIDE, PADS, DILATION)
def test_strict_raises_exactly_where_a_remainder_would_be_rounded_away(size, kernel, stride, padding, dilation):
    room = size + sum(padding) - window_extent(kernel, dilation)
    if room < 0:
        return
    if room % stride:
        with pytest.raises(ValueError, match=r"`stride` must divide .*strict=True"):
            cx.conv_output_size(size, kernel, stride, padding, dilation, strict=True)
    else:
        out = cx.conv_output_size(size, kernel, stride, padding, dilation, strict=True)
        assert out == cx.conv_output_size(size, kernel, stride, padding, dilation, ceil_mode=True)


# As Keras 3, PyTorch 2 (where padding is symmetric, so "same" is missing) and ONNX compute them.
@pytest.mark.parametrize(("arguments", "expected"), [
    (dict(size=28, kernel=5), 24),
    (dict(size=224, kernel=7, stride=2, padding="same"), 112),
    (dict(size=224, kernel=7, stride=2, padding=3), 112),
    (dict(size=7, kernel=3, stride=2, padding="same"), 4),
    (dict(size=6, kernel=2, stride=2, ceil_mode=True), 3),
    (dict(size=7, kernel=2, stride=2, ceil_mode=True), 4),
    (dict(size=7, kernel=2, stride=2), 3),
    (dict(size=5, kernel=2, stride=2, padding=1), 3),
    (dict(size=5, kernel=2, stride=2, padding=1, ceil_mode=True), 3),  # a fourth window would begin behind the image
    (dict(size=112, kernel=3, stride=2, ceil_mode=True), 56),
    (dict(size=7, kernel=3, dilation=3), 1),
    (dict(size=1, kernel=3, padding=(2, 0)), 1),
])
def test_known_sizes(arguments, expected):
    assert cx.conv_output_size(**arguments) == expected


@given(SIZE, KERNEL, STRIDE, PADS, DILATION, st.booleans())
def test_unreached_counts_the_pixels_that_no_tap_touches(size, kernel, stride, padding, dilation, ceil_mode):
    starts = windows(size, kernel, stride, padding, dilation, ceil_mode)
    touched = {start + k * dilation for start in starts for k in range(kernel)}
    assert unreached(size, kernel, stride, padding, dilation, len(starts)) == len(set(range(size)) - touched)


@pytest.mark.parametrize(("arguments", "argument"), [
    (dict(size=0, kernel=1), "size"),
    (dict(size=5, kernel=-1), "kernel"),
    (dict(size=5, kernel=2.5), "kernel"),
    (dict(size=5, kernel=True), "kernel"),
    (dict(size=5, kernel=3, stride=0), "stride"),
    (dict(size=5, kernel=3, dilation=float("nan")), "dilation"),
    (dict(size=5, kernel=3, padding="full"), "padding"),
    (dict(size=5, kernel=3, padding=-1), "padding"),
    (dict(size=5, kernel=3, padding=(1, 2, 3)), "padding"),
    (dict(size=5, kernel=3, padding=None), "padding"),
    (dict(size=5, kernel=6), "kernel"),
])
def test_bad_arguments(arguments, argument):
    with pytest.raises(ValueError, match=rf"^conv_output_size: `{argument}` must .*\. Received {argument}=.*\.$"):
        cx.conv_output_size(**arguments)


def test_padding_of_one_axis():
    assert axis_padding("here", 5, 3, 1, "valid") == (0, 0)
    assert axis_padding("here", 5, 3, 1, 2) == (2, 2)
    assert axis_padding("here", 5, 4, 1, "same") == (1, 2)
