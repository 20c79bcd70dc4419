"""SqueezeExcite against its twin; weights; bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from cnnext_fusion import SqueezeExcite

from cnnext.graph.graph import Value


@pytest.mark.parametrize(("shape", "ratio"), [((2, 3, 2, 4), 2), ((1, 2, 3, 3), 16), ((3, 1, 1, 5), 1)])
def test_twin(against_twin, shape, ratio):
    def twin(x, reduce, reduce_bias, expand, expand_bias):
        hidden = np.maximum(x.mean((1, 2), keepdims=True) @ reduce + reduce_bias, 0)
        return [x / (1 + np.exp(-hidden @ expand - expand_bias))]

    against_twin(lambda: SqueezeExcite(ratio), [shape], twin)


def test_weights():
    specs = SqueezeExcite(4).parameters((None, 8, 8, 32))
    assert {key: spec.shape for key, spec in specs.items()} == {
        "reduce": (32, 8), "reduce_bias": (8,), "expand": (8, 32), "expand_bias": (32,)}


def test_macs():
    layer = SqueezeExcite(4)
    assert layer.macs(layer(Value((3, 8, 8, 32))).node) == 3 * 2 * 32 * 8


def test_bad_arguments():
    with pytest.raises(ValueError, match="`ratio` must be at least 1"):
        SqueezeExcite(0)
    with pytest.raises(ValueError, match="`src` must have rank 4"):
        SqueezeExcite().infer_shapes((1, 8))
    with pytest.raises(ValueError, match="`src` must have a known number of channels"):
        SqueezeExcite().parameters((1, 8, 8, None))
