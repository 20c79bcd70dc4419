"""ChannelShuffle, SpaceToDepth, DepthToSpace against NumPy; inverses; bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from cnnext_slice_split import ChannelShuffle, DepthToSpace, SpaceToDepth

from cnnext.testing import run_layer


@pytest.mark.parametrize(("shape", "groups"), [((2, 3, 2, 6), 3), ((2, 12), 2), ((1, 3, 3, 7), 7), ((1, 2, 2, 4), 1)])
def test_channel_shuffle(against_twin, shape, groups):
    def twin(x):
        out = np.empty_like(x)
        per_group = shape[-1] // groups
        for c in range(shape[-1]):
            out[..., c % per_group * groups + c // per_group] = x[..., c]
        return [out]

    against_twin(lambda: ChannelShuffle(groups), [shape], twin)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize(("shape", "size"), [((2, 4, 6, 3), 2), ((1, 3, 6, 1), 3), ((1, 2, 2, 5), 1)])
def test_space_to_depth(against_twin, shape, size, mode):
    def twin(x):
        n, h, w, c = x.shape
        out = np.empty((n, h // size, w // size, c * size * size))
        for r in range(size):
            for q in range(size):
                places = (r * size + q) * c + np.arange(c) if mode == "DCR" else np.arange(c) * size * size + r * size + q
                out[..., places] = x[:, r::size, q::size]
        return [out]

    against_twin(lambda: SpaceToDepth(size, mode), [shape], twin)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize(("shape", "size"), [((2, 2, 3, 8), 2), ((1, 1, 2, 9), 3), ((1, 2, 2, 5), 1)])
def test_depth_to_space(against_twin, shape, size, mode):
    def twin(x):
        n, h, w, depth = x.shape
        c = depth // (size * size)
        out = np.empty((n, h * size, w * size, c))
        for r in range(size):
            for q in range(size):
                places = (r * size + q) * c + np.arange(c) if mode == "DCR" else np.arange(c) * size * size + r * size + q
                out[:, r::size, q::size] = x[..., places]
        return [out]

    against_twin(lambda: DepthToSpace(size, mode), [shape], twin)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_inverse(mode):
    x = np.random.default_rng(0).standard_normal((3, 8, 4, 17)).astype(np.float32)
    there = run_layer(SpaceToDepth(4, mode), [x]).outputs
    assert np.array_equal(run_layer(DepthToSpace(4, mode), there).outputs[0], x)


def test_channels_first():
    x = np.random.default_rng(0).standard_normal((2, 12, 3, 2)).astype(np.float32)
    (y,) = run_layer(ChannelShuffle(3, "channels_first"), [x]).outputs
    assert np.array_equal(y, x.reshape(2, 3, 4, 3, 2).swapaxes(1, 2).reshape(x.shape))


def test_unknown_extents():
    assert ChannelShuffle(2).infer_shapes((None, None, 3, 4)) == [(None, None, 3, 4)]
    assert SpaceToDepth(2).infer_shapes((None, None, 4, 3)) == [(None, None, 2, 12)]
    assert DepthToSpace(2).infer_shapes((None, None, 4, 12)) == [(None, None, 8, 3)]


@pytest.mark.parametrize(("layer", "shape", "message"), [
    (ChannelShuffle(2), (1, 2, 2, 3), "`groups` must divide the channels of the source. Received groups=2"),
    (ChannelShuffle(1), (3,), "`src` must have rank 2 or more"),
    (SpaceToDepth(2), (1, 3, 2, 1), "`block_size` must divide the rows and columns of the source"),
    (SpaceToDepth(2), (1, 4, 4), "`src` must have rank 4"),
    (DepthToSpace(2), (1, 3, 2, 6), "`block_size` must have a square that divides the channels"),
    (DepthToSpace(2), (1, 4, 4), "`src` must have rank 4"),
])
def test_bad_sources(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.infer_shapes(shape)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ChannelShuffle(0), "`groups` must be at least 1"),
    (lambda: SpaceToDepth(2, "RDC"), "`mode` must be one of 'DCR', 'CRD'"),
])
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
