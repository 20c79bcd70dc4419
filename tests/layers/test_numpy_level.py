"""Layers whose authors write NumPy: forward, backward, weights, and what a faulty one is told."""

import numpy as np
import pytest

from cnnext.errors import PluginError
from cnnext.layers.layer import Layer, ParameterSpec
from cnnext.testing import run_layer


class Power(Layer):
    """dst = scale * src ** 3"""

    def parameters(self, *shapes):
        return {"scale": ParameterSpec((shapes[0][-1],), "ones")}

    def output_shape(self, *shapes):
        return shapes[0]

    def forward(self, ctx, x):
        ctx.x = x
        return ctx.weights["scale"] * x**3

    def backward(self, ctx, dy):
        ctx.diff_weights["scale"] = (dy * ctx.x**3).sum(tuple(range(dy.ndim - 1)))
        return [dy * ctx.weights["scale"] * 3 * ctx.x**2]


class WrongShape(Power):
    def forward(self, ctx, x):
        return x[:1, :1]


class ForgetsWeights(Power):
    def backward(self, ctx, dy):
        return [dy]


def test_forward_and_backward_match_the_formula():
    rng = np.random.default_rng(1)
    x, dy = (rng.normal(size=(2, 3, 5, 7)).astype(np.float32) for _ in range(2))
    run = run_layer(Power(), [x], [dy])
    np.testing.assert_allclose(run.outputs[0], x**3, rtol=1e-6)
    np.testing.assert_allclose(run.diff_inputs[0], 3 * dy * x**2, rtol=1e-5)
    np.testing.assert_allclose(run.diff_weights["scale"], (dy * x**3).sum((0, 1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layer", "words"), [(WrongShape, "return an array of shape"),
                                              (ForgetsWeights, "set ctx.diff_weights")])
def test_a_faulty_layer_is_named(layer, words):
    x = np.ones((2, 3, 3, 2), np.float32)
    with pytest.raises(PluginError, match=words) as error:
        run_layer(layer(name="mine"), [x], [x])
    assert "'mine'" in str(error.value)
