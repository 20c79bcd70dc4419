"""Elementwise activations against their twins in float64, forward and backward, all levels, threads bit-equal."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext._native.executor import UNARY_SAVES_OUTPUT
from cnnext.graph.graph import INT64, Value
from cnnext.layers.activation import (
    BY_NAME,
    CELU,
    ELU,
    GELU,
    SELU,
    Clip,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Mish,
    ReLU,
    ReLU6,
    Shrink,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
    ThresholdedReLU,
    activation_layer,
)
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.softmax import LogSoftmax, Softmax
from cnnext.testing import run_layer
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, close
from tests.layers.padded import check_padded

# Each layer with its twin's name and constants, written out: the layers' own tables are under test.
LAYERS = [
    (ReLU(), "clip", (0.0, inf)),
    (ReLU6(), "clip", (0.0, 6.0)),
    (Clip(), "identity", ()),
    (Clip(-0.75), "clip", (-0.75, inf)),
    (Clip(maximum=1.5), "clip", (-inf, 1.5)),
    (Clip(-1.25, 0.5), "clip", (-1.25, 0.5)),
    (LeakyReLU(), "leaky_relu", (0.01,)),
    (LeakyReLU(0.3), "leaky_relu", (0.3,)),
    (LeakyReLU(0.0), "leaky_relu", (0.0,)),
    (LeakyReLU(1.5), "leaky_relu", (1.5,)),
    (LeakyReLU(-0.3), "leaky_relu", (-0.3,)),
    (ELU(), "elu", (1.0,)),
    (ELU(0.4), "elu", (0.4,)),
    (ELU(0.0), "elu", (0.0,)),
    (ELU(-0.7), "elu", (-0.7,)),
    (CELU(), "celu", (1.0,)),
    (CELU(0.6), "celu", (0.6,)),
    (SELU(), "selu", ()),
    (GELU(), "gelu", ()),
    (GELU(approximate=True), "gelu_tanh", ()),
    (Sigmoid(), "sigmoid", ()),
    (HardSigmoid(), "hard_sigmoid", (1 / 6, 0.5)),
    (HardSigmoid(0.2, 0.4), "hard_sigmoid", (0.2, 0.4)),
    (HardSigmoid(-0.25, 0.75), "hard_sigmoid", (-0.25, 0.75)),
    (Tanh(), "tanh", ()),
    (SiLU(), "silu", ()),
    (HardSwish(), "hard_swish", ()),
    (HardSwish(1.5, -0.25), "scaled_hard_swish", (1.5, -0.25)),
    (Mish(), "mish", ()),
    (Softplus(), "softplus", ()),
    (Softsign(), "softsign", ()),
    (SiLU(1.7), "swish", (1.7,)),
    (SiLU(-0.6), "swish", (-0.6,)),
    (SiLU(0.0), "swish", (0.0,)),
    (ThresholdedReLU(), "thresholded_relu", (1.0,)),
    (ThresholdedReLU(-0.25), "thresholded_relu", (-0.25,)),
    (Shrink(), "shrink", (0.5, 0.0)),
    (Shrink(0.75, 0.75), "shrink", (0.75, 0.75)),
    (Shrink(-0.5, 0.25), "shrink", (-0.5, 0.25)),
]
IDS = [repr(layer) for layer, _, _ in LAYERS]


def check(layer, name, constants, shape, level, threads, seed, positive=False):
    rng = np.random.default_rng(seed)
    # Odd multiples of 1/64: where a kinked function changes its formula, float32 and float64 then agree on the side.
    src = ((np.round(rng.standard_normal(shape) * 96) + 0.5) / 32).astype(np.float32)
    if positive:
        src = abs(src)
    diff_dst = rng.standard_normal(shape).astype(np.float32)
    one, many = (run_layer(layer, [src], [diff_dst], level=level, n_threads=n) for n in (1, threads))
    twin, exact = reference.UNARY[name], src.astype(np.float64)
    close(one.outputs[0], twin.forward(exact, *constants))
    expected = diff_dst * twin.derivative(exact, *constants)
    if UNARY_SAVES_OUTPUT[layer.as_epilogue()[0]]:
        # f'(x) comes from the rounded f(x): where f saturates, its error is that of f, however small f'(x) is
        np.testing.assert_allclose(one.diff_inputs[0], expected, rtol=1e-5, atol=1e-6 * np.abs(diff_dst).max())
    else:
        close(one.diff_inputs[0], expected)
    np.testing.assert_array_equal(one.outputs[0], many.outputs[0])
    np.testing.assert_array_equal(one.diff_inputs[0], many.diff_inputs[0])


@given(case=st.sampled_from(LAYERS), batch=BATCH, spatial=st.lists(EXTENT, max_size=2),
       channels=st.sampled_from([1, 2, 3, 7, 13, 16, 17, 33, 127]), level=st.sampled_from(LEVELS),
       threads=st.integers(2, 4), seed=SEED)
@settings(max_examples=400)
def test_twins(case, batch, spatial, channels, level, threads, seed):
    check(*case, (batch, *spatial, channels), level, threads, seed)


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_many_tiles(case):
    check(*case, (2, 43, 127, 13), LEVELS[-1], 3, seed=7)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layer", [GELU(), Sigmoid()], ids=repr)  # saves its source, saves its result
def test_padded(layer, level):
    check_padded(layer, level)


@pytest.mark.parametrize("layer", [ReLU(), LeakyReLU(), ELU(), CELU(), GELU(), SiLU(), SiLU(1.5), HardSwish(), Mish(),
                                   Softplus()], ids=repr)
def test_far_out_nothing_overflows(layer):
    src = np.array([[-1e30, -1e4, -100, 0, 100, 1e4, 1e30]], np.float32)
    run = run_layer(layer, [src], [np.ones_like(src)])
    np.testing.assert_allclose(run.outputs[0][0, 4:], src[0, 4:], rtol=1e-6)
    np.testing.assert_allclose(run.diff_inputs[0][0, 4:], 1, rtol=1e-6)
    assert np.isfinite(run.outputs[0]).all()
    assert np.isfinite(run.diff_inputs[0]).all()


@pytest.mark.parametrize("level", LEVELS)
def test_sigmoid_ulp_over_all_floats(level):
    rng = np.random.default_rng(0)
    some = np.linspace(-106, 20, 60_001, dtype=np.float32)
    x = np.concatenate([rng.integers(0, 2**32, 30_000, dtype=np.uint32).view(np.float32), some,
                        np.array([inf, -inf, nan, 65, 66, -103.9, -104, -104.1, 1e-40], np.float32)])
    with np.errstate(all="ignore"):
        exact = reference.UNARY["sigmoid"].forward(x.astype(np.float64))
    dst = run_layer(Sigmoid(), [x[np.newaxis]], level=level).outputs[0][0]
    np.testing.assert_array_equal(np.isnan(dst), np.isnan(x))
    number = ~np.isnan(x)
    ulp = np.spacing(exact[number].astype(np.float32)).astype(np.float64)
    assert (np.abs(dst[number] - exact[number]) <= 2.5 * ulp).all()


@pytest.mark.parametrize("layer", [layer for layer, _, _ in LAYERS], ids=IDS)
def test_nan_stays_nan(layer):
    src = np.array([[nan, 1.0, nan, -1.0, 0.5]], np.float32)
    np.testing.assert_array_equal(np.isnan(run_layer(layer, [src]).outputs[0]), np.isnan(src))


@pytest.mark.parametrize("name", BY_NAME)
def test_names_work_in_a_convolution(name):
    rng = np.random.default_rng(0)
    src, diff_dst = rng.standard_normal((2, 5, 5, 3)), rng.standard_normal((2, 3, 3, 7)).astype(np.float32)
    plain, fused = Conv2D(7, 3), Conv2D(7, 3, activation=name)
    plain.build(src.shape)
    fused.build(src.shape)
    for key, parameter in plain.weights.items():
        fused.weights[key].assign(parameter.data)
    before = run_layer(plain, [src]).outputs[0]
    after = run_layer(activation_layer(name), [before], [diff_dst])
    expected = run_layer(plain, [src], [after.diff_inputs[0]])
    got = run_layer(fused, [src], [diff_dst], training=True)
    close(got.outputs[0], after.outputs[0])
    close(got.diff_inputs[0], expected.diff_inputs[0])
    close(got.diff_weights["weights"], expected.diff_weights["weights"])
    close(run_layer(fused, [src]).outputs[0], after.outputs[0])


def test_activation_layer_makes_new_layers():
    layer = LeakyReLU(0.3)
    copy = activation_layer(layer)
    assert copy is not layer
    assert (type(copy), copy.negative_slope) == (LeakyReLU, 0.3)
    assert activation_layer("swish", name="gate").name == "gate"
    assert [type(activation_layer(name)) for name in ("softmax", "log_softmax")] == [Softmax, LogSoftmax]
    with pytest.raises(ValueError, match=r"unknown activation 'rellu'\. Did you mean 'relu'\? Known: celu, elu, "):
        activation_layer("rellu")


def test_only_a_clip_without_bounds_is_nothing():
    assert run_layer(Clip(), [np.array([[-inf, inf]])]).outputs[0].tolist() == [[-inf, inf]]
    assert Clip(name="c").is_identity(training=True)
    assert not Clip(0.0).is_identity(training=False)


@pytest.mark.parametrize(("make", "error"), [
    (lambda: CELU(-1, name="a"), r"celu 'a': `alpha` must be greater than 0\. Received alpha=-1"),
    (lambda: LeakyReLU(nan), r"`negative_slope` must be a finite number\. Received negative_slope=nan"),
    (lambda: LeakyReLU(inf), r"`negative_slope` must be a finite number\. Received negative_slope=inf"),
    (lambda: LeakyReLU("0.1"), r"`negative_slope` must be a number\. Received negative_slope='0\.1'"),
    (lambda: CELU(0), r"`alpha` must be greater than 0\. Received alpha=0"),
    (lambda: ELU(True), r"`alpha` must be a number\. Received alpha=True"),
    (lambda: HardSigmoid(slope=inf), r"`slope` must be a finite number\. Received slope=inf"),
    (lambda: Clip(2.0, 1.0, name="c"), r"clip 'c': `minimum` must be at most `maximum`, 1\.0\. Received minimum=2\.0"),
    (lambda: Clip(nan), r"`minimum` must be a number, not NaN\. Received minimum=nan"),
    (lambda: GELU(approximate="tanh"), r"`approximate` must be True or False\. Received approximate='tanh'"),
])
def test_bad_attributes(make, error):
    with pytest.raises(ValueError, match=error):
        make()


def test_bad_inputs():
    with pytest.raises(TypeError, match=r"relu 'r': `src` must be float32\. Received src='int64'"):
        ReLU(name="r")(Value((1, 2), INT64))
    with pytest.raises(ValueError, match=r"relu 'r': `inputs` must be 1 value\(s\)\. Received inputs=2"):
        ReLU(name="r")([Value((1, 2)), Value((1, 2))])


def test_shapes_pass_through():
    assert Mish()(Value((None, 8, None, 3))).shape == (None, 8, None, 3)
