"""SliceSplit, Split and Slice: parts, gradients, shape rules, bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from cnnext_slice_split import Slice, SliceSplit, Split
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext.testing import run_layer


def edges(extent, parts):
    return [(i * extent // parts, (i + 1) * extent // parts) for i in range(parts)]


@pytest.mark.parametrize(("shape", "grid"), [((2, 5, 7, 3), (2, 3)), ((1, 4, 4, 1), (4, 4)), ((2, 3, 3, 2), (1, 1))])
def test_grid(against_twin, shape, grid):
    def twin(x):
        return [x[:, a:b, c:d] for a, b in edges(shape[1], grid[0]) for c, d in edges(shape[2], grid[1])]

    against_twin(lambda: SliceSplit(grid), [shape], twin)


@pytest.mark.parametrize("boxes", [
    [(0, 0, 3, 4), (1, 2, 5, 6)],                   # overlap
    [(0, 0, 2, 2)],                                 # most of the source unread
    [(0, 0, 5, 3), (0, 3, 5, 6)],                   # tiles
    [(1, 1, 4, 5), (1, 1, 4, 5), (0, 0, 5, 6)],     # one twice, and the whole
])
def test_boxes(against_twin, boxes):
    against_twin(lambda: SliceSplit(boxes=boxes), [(2, 5, 6, 3)], lambda x: [x[:, t:b, c:r] for t, c, b, r in boxes])


@pytest.mark.parametrize("channels", [[(0, 3), (3, 7)], [(0, 5), (2, 7)], [(6, 7)]])
def test_channels(against_twin, channels):
    against_twin(lambda: SliceSplit(channels=channels), [(2, 3, 2, 7)], lambda x: [x[..., a:b] for a, b in channels])


@pytest.mark.parametrize(("shape", "sections", "axis"), [
    ((2, 6), 3, -1), ((2, 3, 4, 5), (2, 3), -1), ((2, 6, 4, 2), 2, 1), ((1, 3, 7), (1, 6), 2), ((2, 3, 4, 5), 4, 2),
])
def test_split(against_twin, shape, sections, axis):
    cuts = sections if isinstance(sections, int) else np.cumsum(sections)[:-1]
    against_twin(lambda: Split(sections, axis), [shape], lambda x: np.split(x, cuts, axis))


@pytest.mark.parametrize(("shape", "begin", "size"), [
    ((2, 7), (3,), (2,)), ((2, 5, 6, 3), (1, 0, 1), (3, -1, 2)), ((3, 4, 5), (0, 0), (-1, -1)),
])
def test_slice(against_twin, shape, begin, size):
    def twin(x):
        stops = [n if extent == -1 else start + extent for n, start, extent in zip(x.shape[1:], begin, size, strict=True)]
        return [x[(slice(None), *map(slice, begin, stops))]]

    against_twin(lambda: Slice(begin, size), [shape], twin)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 3), size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
       channels=st.sampled_from([1, 7, 16, 127]), seed=st.integers(0, 99), data=st.data())
def test_any_grid(n, size, channels, seed, data):
    grid = tuple(data.draw(st.integers(1, extent)) for extent in size)
    x = np.random.default_rng(seed).standard_normal((n, *size, channels)).astype(np.float32)
    parts = [x[:, a:b, c:d] for a, b in edges(size[0], grid[0]) for c, d in edges(size[1], grid[1])]
    run = run_layer(SliceSplit(grid), [x], parts, n_threads=2)
    for got, wanted in zip(run.outputs, parts, strict=True):
        assert np.array_equal(got, wanted)
    assert np.array_equal(run.diff_inputs[0], x)


def test_unknown_extents():
    assert SliceSplit((1, 2)).infer_shapes((None, 4, 5, 3)) == [(None, 4, 2, 3), (None, 4, 3, 3)]
    assert SliceSplit((1, 2)).infer_shapes((None, 4, None, 3)) == [(None, 4, None, 3)] * 2
    assert SliceSplit(channels=[(1, 2)]).infer_shapes((None, None, 5, 3)) == [(None, None, 5, 1)]
    assert Split(2, 1).infer_shapes((None, None, 6)) == [(None, None, 6)] * 2
    assert Slice((1, 0), (2, -1)).infer_shapes((None, 4, None)) == [(None, 2, None)]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: SliceSplit(), "`grid` must be given, or `boxes`, or `channels`: one of the three"),
    (lambda: SliceSplit(2, [(0, 0, 1, 1)]), "`grid` must be given, or `boxes`"),
    (lambda: SliceSplit(boxes=[(0, 0, 1)]), "`boxes` must be None or a list of .top, left, bottom, right."),
    (lambda: SliceSplit(boxes=[(2, 0, 2, 1)]), "`boxes` must end after they begin"),
    (lambda: SliceSplit(channels=[]), "`channels` must be None or a list of .start, stop."),
    (lambda: SliceSplit(channels=[(0, "all")]), "`channels` must be a whole number"),
    (lambda: SliceSplit(0), "`grid` must"),
    (lambda: Split(0), "`sections` must be at least 1"),
    (lambda: Split(()), "`sections` must have a part at least"),
    (lambda: Split("two"), "`sections` must be a whole number"),
    (lambda: Slice((0, 0), (1,)), "`size` must have 2 extents, as `begin`"),
    (lambda: Slice((0,), (0,)), "`size` must have extents of at least 1, or -1"),
])
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("layer", "shape", "message"), [
    (SliceSplit(2), (1, 4, 4), "`src` must have rank 4"),
    (SliceSplit((3, 1)), (1, 2, 4, 1), "`grid` must leave every region a pixel. Received grid=.3, 1."),
    (SliceSplit(boxes=[(0, 0, 3, 3)]), (1, 2, 4, 1), "`boxes` must lie within the source"),
    (SliceSplit(channels=[(0, 3)]), (1, 2, 4, 2), "`channels` must lie within the source"),
    (Split(2), (1, 5), "`sections` must divide the extent 5. Received sections=2"),
    (Split((2, 2)), (1, 5), "`sections` must add up to the extent 5"),
    (Split(2, 0), (2, 5), "`axis` must be an axis of the source and not the batch"),
    (Split(2, 2), (2, 5), "`axis` must be an axis of the source and not the batch"),
    (Slice((0,), (1,)), (2, 5, 5), "`begin` must have 2 indices"),
    (Slice((3,), (3,)), (2, 5), "`size` must lie within the source"),
    (Slice((5,), (-1,)), (2, 5), "`size` must lie within the source"),
])
def test_bad_sources(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.infer_shapes(shape)
