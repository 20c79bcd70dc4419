"""Networks from names, patterns and functions."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cnnext as cx
from cnnext.models.build import build, build_classifier, ends_in_softmax


@pytest.mark.parametrize("model", ["lenet5", "INPUT-CONV-RELU-FC", "[input-conv-relu]-fc", cx.models.lenet5])
def test_one_network(model):
    net = build(model, 4, (12, 12, 3))
    assert net.input_shape == (None, 12, 12, 3) and net.output_shape == (None, 4)


def test_options():
    small = build("vgg11", 4, (32, 32, 3), small_images=True)
    assert small.count_params() < build("vgg11", 4, (32, 32, 3)).count_params() / 3
    assert build("INPUT-CONV-FC", 4, (8, 8, 1), filters=5).parameters[0].shape == (3, 3, 1, 5)


def test_a_softmax_is_added_once():
    x = np.random.default_rng(0).random((5, 12, 12, 1), np.float32)
    scores = build("INPUT-CONV-RELU-FC", 4, (12, 12, 1))
    net = build_classifier(lambda classes, shape: scores, 4, (12, 12, 1))
    assert ends_in_softmax(net) and not ends_in_softmax(scores)
    e = np.exp(scores.predict(x))
    np.testing.assert_allclose(net.predict(x), e / e.sum(axis=1, keepdims=True), rtol=1e-5)
    assert sum(isinstance(layer, cx.Softmax) for layer in build_classifier("lenet5", 4, (12, 12, 1)).layers) == 1


@pytest.mark.parametrize("model, error, rule", [
    ("lenet", ValueError, "build: unknown network 'lenet'. Did you mean 'lenet5'? Known: densenet121,"),
    ("INPUT-FOO", ValueError, "FOO"),
    ("CONV-FC", ValueError, "INPUT first"),
    ("unet", ValueError, "model 'unet': `outputs` must be one of shape (4,)."),
    (5, TypeError, "build: `model` must be the name of a network, a pattern, or a function. Received model=5."),
    (lambda classes, shape: 5, TypeError, "build: `model` must return a cnnext.Model. Received model='int'."),
    (lambda classes, shape: cx.models.lenet5(classes), ValueError,
     "model 'lenet5': `inputs` must be one of shape (32, 32, 3). Received inputs=[(28, 28, 1)]."),
])
def test_what_is_refused(model, error, rule):
    with pytest.raises(error, match=re.escape(rule)):
        build(model, 4, (32, 32, 3))
