"""Elementary functions against their twins, forward and backward; their errors in ulp over all floats."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext._native.executor import UNARY_SAVES_OUTPUT
from cnnext.graph.graph import Value
from cnnext.layers.conv2d import Conv2D
from cnnext.layers.elementary import (
    Abs,
    Ceil,
    Erf,
    Exp,
    Floor,
    Log,
    Negate,
    Power,
    Reciprocal,
    Round,
    Sign,
    Sqrt,
    Square,
)
from cnnext.testing import run_layer
from tests.layers.agreement import BATCH, EXTENT, LEVELS, SEED, check_agreement, close
from tests.layers.padded import check_padded
from tests.layers.test_activation import check
from tests.layers.test_elementwise import broadcast_shapes, reduce_to_shape

# Each layer with its twin's name and constants, whether it is tried above 0 only, and the most ulp that it may be off.
LAYERS = [
    (Exp(), "exp", (), False, 1.1),
    (Log(), "log", (), True, 1.0),
    (Sqrt(), "sqrt", (), True, 0.5),
    (Abs(), "abs", (), False, 0),
    (Negate(), "affine", (-1.0, -0.0), False, 0),
    (Reciprocal(), "reciprocal", (), False, 0.5),
    (Square(), "square", (), False, 0.5),
    (Floor(), "floor", (), False, 0),
    (Ceil(), "ceil", (), False, 0),
    (Round(), "round", (), False, 0),
    (Sign(), "sign", (), False, 0),
    (Erf(), "erf", (), False, 1.5),
    (Power(-1), "reciprocal", (), False, 0.5),
    (Power(-0.5), "rsqrt", (), True, 1.6),
    (Power(0.5), "sqrt", (), True, 0.5),
    (Power(1), "identity", (), False, 0),
    (Power(2), "square", (), False, 0.5),
    (Power(3), "cube", (), False, 1.5),
    (Power(4), "power", (4.0,), False, 2.5),
    (Power(-3), "power", (-3.0,), False, 2.5),
    (Power(1.5), "power", (1.5,), True, 2.5),
    (Power(-0.3), "power", (float(np.float32(-0.3)),), True, 2.5),
    (Power(8), "power", (8.0,), False, 6),
]
IDS = [repr(layer) for layer, *_ in LAYERS]


@given(case=st.sampled_from(LAYERS), batch=BATCH, spatial=st.lists(EXTENT, max_size=2), channels=EXTENT,
       level=st.sampled_from(LEVELS), threads=st.integers(2, 4), seed=SEED)
@settings(max_examples=200, deadline=None)
def test_twins(case, batch, spatial, channels, level, threads, seed):
    layer, name, constants, positive, _ = case
    check(layer, name, constants, (batch, *spatial, channels), level, threads, seed, positive)


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_many_tiles(case):
    layer, name, constants, positive, _ = case
    check(layer, name, constants, (2, 43, 127, 13), LEVELS[-1], 3, 7, positive)


SPECIAL = [0.0, -0.0, inf, -inf, nan, 0.5, -0.5, 1.5, -1.5, 2.5, 1e-45, -1e-45, 1e-38, 4194304.5, 8388607.5, 8388609.0,
           88.7228, 88.7229, -87.4, -103.9, -104.0, 0.99999994, 1.0, 3.9, 4.1]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_ulp_over_all_floats(case, level):
    layer, name, constants, _, bound = case
    rng = np.random.default_rng(0)
    x = np.concatenate([
        rng.integers(0, 2**32, 30_000, dtype=np.uint32).view(np.float32),
        rng.uniform(-110, 110, 10_000).astype(np.float32), rng.uniform(-2, 2, 10_000).astype(np.float32),
        np.array(SPECIAL, np.float32),
    ])
    with np.errstate(all="ignore"):
        exact = reference.UNARY[name].forward(x.astype(np.float64), *constants)
        rounded = exact.astype(np.float32)
    dst = run_layer(layer, [x[np.newaxis]], level=level).outputs[0][0]
    np.testing.assert_array_equal(np.isnan(dst), np.isnan(rounded))
    whole = ~np.isfinite(rounded) | (rounded == 0) & (bound == 0)
    np.testing.assert_array_equal(dst[whole], rounded[whole])
    finite = np.isfinite(rounded)
    assert (np.abs(dst[finite] - exact[finite]) <= bound * np.spacing(np.abs(rounded[finite])).astype(np.float64)).all()
    # the sign of a zero, too, which 1 / x tells
    zero = (dst == 0) & (rounded == 0)
    np.testing.assert_array_equal(np.signbit(dst[zero]), np.signbit(exact[zero]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layer", [Exp(), Erf()], ids=repr)  # saves its result, saves its source
def test_padded(layer, level):
    check_padded(layer, level)


@pytest.mark.parametrize("layer", [Exp(), Abs(), Square(), Erf(), Floor(), Power(2), Power(3)], ids=repr)
def test_fuses_into_a_convolution(layer):
    src = np.random.default_rng(0).standard_normal((2, 5, 5, 3)).astype(np.float32)
    plain, fused = Conv2D(7, 3), Conv2D(7, 3, activation=layer)
    plain.build(src.shape)
    fused.build(src.shape)
    for key, parameter in plain.weights.items():
        fused.weights[key].assign(parameter.data)
    expected = run_layer(layer, [run_layer(plain, [src]).outputs[0]]).outputs[0]
    close(run_layer(fused, [src]).outputs[0], expected)


def test_save_what_their_gradient_needs():
    assert UNARY_SAVES_OUTPUT["exp"] and not UNARY_SAVES_OUTPUT["log"]


def power_backward(x, y, dy):
    return [reduce_to_shape(dy * y * x ** (y - 1), x.shape), reduce_to_shape(dy * x**y * np.log(x), y.shape)]


@settings(max_examples=60, deadline=None)
@given(shapes=broadcast_shapes(st.just(2)), n_threads=st.integers(2, 4), seed=SEED)
def test_power_of_two_values(shapes, n_threads, seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(0.25, 2, shape).astype(np.float32) for shape in shapes)
    exact = [x.astype(np.float64), y.astype(np.float64)]
    expected = np.power(*exact)
    diff_dst = rng.standard_normal(expected.shape).astype(np.float32)
    run = run_layer(Power(), [x, y], [diff_dst], n_threads=n_threads)
    close(run.outputs[0], expected)
    diffs = power_backward(*exact, diff_dst)
    scale = max(np.abs(d).max() for d in diffs)
    for got, diff in zip(run.diff_inputs, diffs, strict=True):
        close(got, diff, scale=scale)


@pytest.mark.parametrize("exponent", [0.0, 9.5, -12.0])
def test_power_that_only_numpy_computes(exponent):
    layer = Power(exponent)
    assert layer.as_epilogue() is None
    src = np.random.default_rng(0).uniform(0.5, 1.5, (2, 3, 5)).astype(np.float32)
    run = run_layer(layer, [src], [np.ones_like(src)])
    close(run.outputs[0], src.astype(np.float64) ** exponent)
    close(run.diff_inputs[0], exponent * src.astype(np.float64) ** (exponent - 1))


def test_gradient_of_a_power_of_zero():
    run = run_layer(Power(), [np.zeros((1, 2)), np.array([[2.0, 0.0]])], [np.ones((1, 2))])
    assert run.outputs[0].tolist() == [[0.0, 1.0]]
    assert run.diff_inputs[0].tolist() == [[0.0, 0.0]]
    assert run.diff_inputs[1].tolist() == [[0.0, 0.0]]


def test_power_counts_its_values():
    with pytest.raises(ValueError, match=r"power 'p': `inputs` must be 1 value\(s\)\. Received inputs=2"):
        Power(2, name="p")([Value((1, 2)), Value((1, 2))])
    with pytest.raises(ValueError, match=r"power 'p': `inputs` must be 2 value\(s\)\. Received inputs=1"):
        Power(name="p")(Value((1, 2)))
    with pytest.raises(ValueError, match=r"power: `exponent` must be a finite number\. Received exponent=inf"):
        Power(inf)


def test_steps_have_no_gradient():
    check_agreement(Round(), [(1, 7)], np.rint, lambda x, dy: [np.zeros_like(x)], LEVELS[0], 2, 0)
