"""Locally connected layer against its twin in float64, on all levels, bit-equal for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext.graph.graph import FLOAT32, Epilogue, Graph, Value
from cnnext.layers.locally_connected2d import LocallyConnected2D
from cnnext.testing import guarded_copy, run_graph, run_layer
from tests.layers.agreement import LEVELS, close
from tests.layers.windows import Between, agree, cases, check, random_weights

SMALL = st.sampled_from([1, 2, 5, 7, 13])
FILTERS = st.sampled_from([1, 3, 6, 16, 17, 32, 64, 70])
CASES = cases(heights=SMALL, widths=SMALL, channels=st.sampled_from([1, 3, 8, 17, 40]), dilations=1, strides=3)


def make(case, filters, src, use_bias=True):
    layer = LocallyConnected2D(filters, case.kernel, case.strides, case.padding, use_bias)
    _, oh, ow, _ = layer.infer_shapes(src.shape)[0]
    assume(oh * ow * np.prod(case.kernel) * src.shape[3] * filters < 3e6)
    return layer, random_weights(layer, src.shape, case.rng)


@given(case=CASES, filters=FILTERS, use_bias=st.booleans())
@settings(max_examples=300)
def test_forward_and_backward(case, filters, use_bias):
    src = case.source()
    layer, (weights, *bias) = make(case, filters, src, use_bias)
    exact = src.astype(np.float64)
    keywords = dict(kernel_size=case.kernel, strides=case.strides, padding=case.padding)

    def expected(diff_dst):
        results = [reference.locally_connected2d(exact, weights, *bias, **keywords),
                   reference.locally_connected2d_backward_data(diff_dst, weights, src.shape, **keywords),
                   reference.locally_connected2d_backward_weights(exact, diff_dst, **keywords)]
        return results + [reference.locally_connected2d_backward_bias(diff_dst)] * use_bias

    check(layer, src, case, expected)


@given(case=CASES, filters=FILTERS, post=st.sampled_from([None, ("tanh", ())]), with_add=st.booleans(),
       bounds=st.sampled_from([(-np.inf, np.inf), (0.0, 6.0)]))
@settings(max_examples=80)
def test_epilogue(case, filters, post, with_add, bounds):
    """bias, then what is added, then the clip, then the function."""
    src = case.source()
    layer, (weights, bias) = make(case, filters, src)
    added = case.rng.standard_normal(layer.infer_shapes(src.shape)[0]).astype(np.float32)
    x, extra = Value(src.shape, FLOAT32, "x"), Value(added.shape, FLOAT32, "extra")
    graph = Graph([x, extra], [])
    graph.outputs.append(graph.apply1(layer, x, weights=layer.weight_values()))
    graph.nodes[0].epilogue = Epilogue(extra if with_add else None, *bounds, post)
    got = run_graph(graph, [guarded_copy(src), guarded_copy(added)], level=case.level, n_threads=case.threads)[0]
    y = reference.locally_connected2d(src.astype(np.float64), weights, bias, kernel_size=case.kernel,
                                      strides=case.strides, padding=case.padding)
    y = np.clip(y + added if with_add else y, *bounds)
    agree(got, np.tanh(y) if post else y, 1e-5 * max(np.abs(y).max(), 1))


@pytest.mark.parametrize("level", LEVELS)
def test_a_long_sum_is_cut_into_blocks(level):
    rng = np.random.default_rng(0)
    src = rng.standard_normal((5, 4, 4, 700)).astype(np.float32)
    layer = LocallyConnected2D(70, 3)
    weights, bias = random_weights(layer, src.shape, rng)
    expected = reference.locally_connected2d(src.astype(np.float64), weights, bias, kernel_size=(3, 3))
    close(run_layer(layer, [src], level=level).outputs[0], expected)


@pytest.mark.parametrize("level", LEVELS)
def test_gaps_between_pixels_change_nothing(level):
    rng = np.random.default_rng(0)
    src = rng.standard_normal((2, 4, 5, 256)).astype(np.float32)
    layer = LocallyConnected2D(256, (2, 3), padding="same")
    random_weights(layer, src.shape, rng)
    between = Between(layer)
    between.build(src.shape)
    for key, parameter in layer.weights.items():
        between.weights[key].assign(parameter.data)
    diff_dst = rng.standard_normal(layer.infer_shapes(src.shape)[0]).astype(np.float32)
    dense, gaps = (run_layer(x, [src], [diff_dst], level=level) for x in (layer, between))
    close(gaps.outputs[0], dense.outputs[0], 1e-6)
    close(gaps.diff_inputs[0], dense.diff_inputs[0], 1e-6)
    for key, diff in dense.diff_weights.items():
        close(gaps.diff_weights[key], diff, 1e-6)


BAD = [
    (lambda: LocallyConnected2D(0, 3), r"locallyconnected2d: `filters` must be at least 1"),
    (lambda: LocallyConnected2D(2, 9).infer_shapes((1, 8, 8, 3)), r"`kernel_size` must fit on the padded source"),
    (lambda: LocallyConnected2D(2, 3).infer_shapes((1, 8, 8)), r"`src` must have rank 4"),
    (lambda: LocallyConnected2D(2, 3).infer_shapes((1, None, 8, 3)), r"`src` must have known rows and columns"),
]


@pytest.mark.parametrize(("make_bad", "words"), BAD)
def test_bad_arguments_are_named(make_bad, words):
    with pytest.raises(ValueError, match=words):
        make_bad()


def test_another_size_wants_other_weights():
    layer = LocallyConnected2D(2, 3)
    layer.build((None, 8, 8, 3))
    with pytest.raises(ValueError, match="have shape"):
        layer.build((None, 9, 8, 3))
