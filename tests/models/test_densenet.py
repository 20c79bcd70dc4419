"""DenseNet: its concatenations copy nothing."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx

pytest.importorskip("cnnext_normalization")


def test_concatenations_are_free_and_exact():
    cx.set_random_seed(0)
    net = cx.models.densenet121(5, (32, 32, 3))
    plan = net.plan(2)
    assert not [s.name for s in plan.steps if "concat" in s.name]
    assert [s.kernel in ("conv_direct", "conv_winograd") for s in plan.steps].count(True) == 121   # 120 and a dense layer
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    block = "features.denseblock1.denselayer"
    values = {node.layer.name: node.output for node in net.graph.nodes}
    flat = [values["features.pool0"], *(values[f"{block}{i}.conv2"] for i in range(1, 7))]
    *parts, nested = cx.Model(net.graph.inputs, [*flat, values[f"{block}6.concat"]]).predict(x)
    np.testing.assert_array_equal(nested, np.concatenate(parts, axis=-1))
