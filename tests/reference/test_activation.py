"""Activation twins: forward against the textbook formula, derivatives against central differences."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.reference import UNARY, numerical_gradient

SETTINGS = settings(max_examples=50, deadline=None)
HEADER = Path(reference.__file__).parents[1] / "include" / "cnnext_plugin.h"

# name, constants, the formula on a Python float, the kinks, the derivative at the kinks
CASES = [
    ("identity", (), lambda x: x, (), ()),
    ("clip", (-0.5, 1.5), lambda x: min(max(x, -0.5), 1.5), (-0.5, 1.5), (0, 0)),
    ("clip", (0.0, math.inf), lambda x: max(x, 0.0), (0.0,), (0,)),
    ("leaky_relu", (0.1,), lambda x: x if x > 0 else 0.1 * x, (0.0,), (0.1,)),
    ("elu", (0.7,), lambda x: x if x > 0 else 0.7 * (math.exp(x) - 1), (0.0,), (0.7,)),
    (
        "selu",
        (),
        lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
        (0.0,),
        (1.0507009873554805 * 1.6732632423543772,),
    ),
    ("gelu", (), lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2, (), ()),
    ("gelu_tanh", (), lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2, (), ()),
    ("sigmoid", (), lambda x: 1 / (1 + math.exp(-x)), (), ()),
    ("hard_sigmoid", (0.25, 0.5), lambda x: min(max(0.25 * x + 0.5, 0), 1), (-2.0, 2.0), (0, 0)),
    ("tanh", (), math.tanh, (), ()),
    ("silu", (), lambda x: x / (1 + math.exp(-x)), (), ()),
    ("hard_swish", (), lambda x: x * min(max(x / 6 + 0.5, 0), 1), (-3.0, 3.0), (0, 1)),
    ("mish", (), lambda x: x * math.tanh(math.log(1 + math.exp(x))), (), ()),
    ("softplus", (), lambda x: math.log(1 + math.exp(x)), (), ()),
    ("softsign", (), lambda x: x / (1 + abs(x)), (), ()),
    ("affine", (1.5, -2.0), lambda x: 1.5 * x - 2.0, (), ()),
    ("exp", (), math.exp, (), ()),
    ("log", (), math.log, (), ()),
    ("sqrt", (), math.sqrt, (), ()),
    ("rsqrt", (), lambda x: 1 / math.sqrt(x), (), ()),
    ("abs", (), math.fabs, (0.0,), (0,)),
    ("reciprocal", (), lambda x: 1 / x, (), ()),
    ("square", (), lambda x: x * x, (), ()),
    ("cube", (), lambda x: x * x * x, (), ()),
    ("power", (-1.5,), lambda x: math.pow(x, -1.5), (), ()),
    ("floor", (), math.floor, tuple(range(-9, 10)), (0,) * 19),
    ("ceil", (), math.ceil, tuple(range(-9, 10)), (0,) * 19),
    ("round", (), round, tuple(i + 0.5 for i in range(-9, 9)), (0,) * 18),
    ("sign", (), lambda x: (x > 0) - (x < 0), (0.0,), (0,)),
    ("erf", (), math.erf, (), ()),
    ("leaky_relu_any", (-0.1,), lambda x: x if x > 0 else -0.1 * x, (0.0,), (-0.1,)),
    ("elu_any", (-0.7,), lambda x: x if x > 0 else -0.7 * (math.exp(x) - 1), (0.0,), (-0.7,)),
    ("celu", (0.7,), lambda x: x if x > 0 else 0.7 * (math.exp(x / 0.7) - 1), (), ()),
    ("thresholded_relu", (1.0,), lambda x: x if x > 1 else 0, (1.0,), (0,)),
    ("swish", (1.5,), lambda x: x / (1 + math.exp(-1.5 * x)), (), ()),
    ("scaled_hard_swish", (1.5, -2.0), lambda x: 1.5 * x * min(max(x / 6 + 0.5, 0), 1) - 2.0, (-3.0, 3.0), (0, 1.5)),
    ("shrink", (0.5, 0.25), lambda x: x - math.copysign(0.25, x) if abs(x) > 0.5 else 0, (-0.5, 0.5), (0, 0)),
]
POSITIVE = {"log", "sqrt", "rsqrt", "reciprocal", "power"}  # functions that are tried above 0 only
IDS = [f"{name}{constants}" for name, constants, *_ in CASES]

# name, constants, limits of f(x) at -1e30 and 1e30, limits of f'(x) there
LIMITS = [
    ("elu", (0.7,), (-0.7, 1e30), (0, 1)),
    ("selu", (), (-1.0507009873554805 * 1.6732632423543772, 1.0507009873554805e30), (0, 1.0507009873554805)),
    ("gelu", (), (0, 1e30), (0, 1)),
    ("gelu_tanh", (), (0, 1e30), (0, 1)),
    ("sigmoid", (), (0, 1), (0, 0)),
    ("tanh", (), (-1, 1), (0, 0)),
    ("silu", (), (0, 1e30), (0, 1)),
    ("hard_swish", (), (0, 1e30), (0, 1)),
    ("mish", (), (0, 1e30), (0, 1)),
    ("softplus", (), (0, 1e30), (0, 1)),
    ("softsign", (), (-1, 1), (0, 0)),
]


def close(actual, expected, rtol=1e-7, atol=1e-8):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def test_the_table_is_that_of_the_header():
    table = re.search(r"#define CNX_UNARY_OPS\(OP\)(.*?)\n\n", HEADER.read_text(), re.DOTALL).group(1)
    names = re.findall(r"OP\([A-Z0-9_]+, (\w+), [xy]\)", table)
    assert list(UNARY) == names


def test_every_activation_has_a_case():
    assert {name for name, *_ in CASES} == set(UNARY)
    for name, constants, *_ in CASES:
        assert len(constants) == len(UNARY[name].parameters)


@pytest.mark.parametrize(("name", "constants", "formula", "kinks", "at_kinks"), CASES, ids=IDS)
class TestUnary:
    def test_forward_is_the_formula(self, name, constants, formula, kinks, at_kinks):
        x = np.concatenate([np.linspace(1 / 8 if name in POSITIVE else -9, 9, 73), kinks])
        close(UNARY[name].forward(x, *constants), np.array([formula(float(value)) for value in x]), atol=1e-12)

    def test_derivative_is_that_of_forward(self, name, constants, formula, kinks, at_kinks):
        x = np.random.default_rng(0).uniform(0.5 if name in POSITIVE else -6, 6, 400)
        for kink in kinks:
            x = x[np.abs(x - kink) > 1e-3]
        # Element by element, so one pair of evaluations differentiates all.
        step = 1e-5
        forward = UNARY[name].forward
        expected = (forward(x + step, *constants) - forward(x - step, *constants)) / (2 * step)
        close(UNARY[name].derivative(x, *constants), expected, rtol=1e-6, atol=1e-8)

    def test_derivative_at_the_kinks(self, name, constants, formula, kinks, at_kinks):
        close(UNARY[name].derivative(np.array(kinks), *constants), np.array(at_kinks, float), atol=1e-15)

    def test_the_argument_is_left_alone_and_its_dtype_kept(self, name, constants, formula, kinks, at_kinks):
        for dtype in (np.float32, np.float64):
            x = np.linspace(1 if name in POSITIVE else -9, 9, 24, dtype=dtype).reshape(2, 3, 4)
            before = x.copy()
            for function in (UNARY[name].forward, UNARY[name].derivative):
                result = function(x, *constants)
                assert (result.dtype, result.shape) == (x.dtype, x.shape)
                assert not np.shares_memory(result, x)
            assert np.array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "constants", "values", "slopes"), LIMITS, ids=[case[0] for case in LIMITS])
def test_far_from_0(name, constants, values, slopes, dtype):
    x = np.array([-1e30, 1e30], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        close(UNARY[name].forward(x, *constants), np.array(values, dtype), atol=1e-25)
        close(UNARY[name].derivative(x, *constants), np.array(slopes, dtype), atol=1e-25)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        # 1 - tanh^2 and s (1 - s) round to 0 here; the leading term of the expansion does not.
        ("tanh", 40.0, 4 * math.exp(-80)),
        ("sigmoid", 60.0, math.exp(-60)),
        ("silu", -60.0, -59 * math.exp(-60)),
        ("mish", -60.0, -59 * math.exp(-60)),
    ],
)
def test_tails_of_derivatives_keep_their_digits(name, x, expected):
    assert UNARY[name].derivative(np.array([x]))[0] == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("leading", [(), (3,), (2, 2, 3)])
def test_prelu(leading):
    rng = np.random.default_rng(1)
    magnitudes = rng.uniform(0.1, 2, (*leading, 4))
    src, slope = magnitudes * rng.choice([-1, 1], magnitudes.shape), rng.uniform(-1, 1, 4)
    diff_dst = rng.standard_normal(src.shape)
    dst = reference.prelu(src, slope)
    for index in np.ndindex(src.shape):
        assert dst[index] == (src[index] if src[index] > 0 else slope[index[-1]] * src[index])
    diff_src, diff_slope = reference.prelu_backward(src, slope, diff_dst)
    close(diff_src, numerical_gradient(lambda x: reference.prelu(x, slope), src, diff_dst))
    close(diff_slope, numerical_gradient(lambda s: reference.prelu(src, s), slope, diff_dst))


def test_prelu_at_0_has_the_slope_of_the_left():
    diff_src, diff_slope = reference.prelu_backward(np.zeros((1, 2)), np.array([0.25, 3.0]), np.ones((1, 2)))
    assert diff_src.tolist() == [[0.25, 3.0]]
    assert diff_slope.tolist() == [0.0, 0.0]


@SETTINGS
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2**32), st.sampled_from([1.0, 20.0]))
def test_softmax_and_log_softmax(shape, seed, scale):
    rng = np.random.default_rng(seed)
    src, diff_dst = scale * rng.standard_normal(shape), rng.standard_normal(shape)
    softmax, log_softmax = reference.softmax(src), reference.log_softmax(src)
    for row in np.ndindex(*shape[:-1]):
        total = sum(math.exp(value) for value in src[row])
        close(softmax[row], np.array([math.exp(value) / total for value in src[row]]), atol=1e-15)
        close(log_softmax[row], np.array([value - math.log(total) for value in src[row]]))
    close(reference.softmax_backward(softmax, diff_dst), numerical_gradient(reference.softmax, src, diff_dst))
    close(
        reference.log_softmax_backward(log_softmax, diff_dst),
        numerical_gradient(reference.log_softmax, src, diff_dst),
    )


def test_softmax_of_large_values():
    with np.errstate(over="raise", invalid="raise"):
        assert reference.softmax(np.array([1e30, 1e30, -1e30])).tolist() == [0.5, 0.5, 0.0]
        close(reference.log_softmax(np.array([1000.0, 0.0])), np.array([0.0, -1000.0]))


@pytest.mark.parametrize("mask_dtype", [np.bool_, np.float64])
def test_dropout(mask_dtype):
    rng = np.random.default_rng(2)
    src, diff_dst = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    mask = (rng.random(src.shape) < 0.6).astype(mask_dtype)
    dst = reference.dropout(src, mask, 0.4)
    close(dst[mask == 1], src[mask == 1] / 0.6)
    assert not dst[mask == 0].any()
    close(
        reference.dropout_backward(diff_dst, mask, 0.4),
        numerical_gradient(lambda x: reference.dropout(x, mask, 0.4), src, diff_dst),
    )


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_refuses_a_rate_outside_0_to_1(rate):
    with pytest.raises(ValueError, match=r"dropout: `rate` must lie in \[0, 1\)"):
        reference.dropout(np.zeros(3), np.ones(3, np.bool_), rate)


def test_float32_stays_float32():
    x, slope = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)
    results = [
        reference.prelu(x, slope),
        *reference.prelu_backward(x, slope, x),
        reference.softmax(x),
        reference.softmax_backward(x, x),
        reference.log_softmax(x),
        reference.log_softmax_backward(x, x),
        reference.dropout(x, x > 0, 0.3),
        reference.dropout_backward(x, x > 0, 0.3),
    ]
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
