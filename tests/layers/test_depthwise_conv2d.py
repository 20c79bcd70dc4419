"""Depthwise convolution against its twin in float64, on all levels, bit-equal for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext import reference
from cnnext.graph.graph import FLOAT32, Epilogue, Graph, Value, constant
from cnnext.layers.depthwise_conv2d import DepthwiseConv2D
from cnnext.testing import guarded_copy, run_graph, run_layer
from tests.layers.agreement import LEVELS, close
from tests.layers.windows import CHANNELS, Between, Case, agree, cases, check, random_weights


def check_depthwise(case, layer, src):
    weights, bias = random_weights(layer, src.shape, case.rng)
    exact = src.astype(np.float64)
    keywords = dict(strides=case.strides, padding=case.padding, dilation=case.dilation)

    def expected(diff_dst):
        return (reference.depthwise_conv2d(exact, weights, bias, **keywords),
                reference.depthwise_conv2d_backward_data(diff_dst, weights, src.shape, **keywords),
                reference.depthwise_conv2d_backward_weights(exact, diff_dst, weights.shape, **keywords),
                reference.conv2d_backward_bias(diff_dst))

    check(layer, src, case, expected)


@given(case=cases())
@settings(max_examples=300)
def test_one_window_per_channel(case):
    check_depthwise(case, DepthwiseConv2D(case.kernel, case.strides, case.padding, case.dilation), case.source())


@st.composite
def sliding_cases(draw):
    """Windows of 3, 5 and 7 neighbouring columns.

    Rows are shorter than a block of pixels and longer, of less than a vector of channels and more; the padding is up to the
    whole window, so that rows and pixels may see nothing of the source.
    """
    kernel = (draw(st.integers(1, 7)), draw(st.sampled_from([3, 5, 7])))
    padding = tuple(draw(st.tuples(st.integers(0, k), st.integers(0, k))) for k in kernel)
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 34)), draw(CHANNELS))
    assume(all(n + sum(pad) >= k for n, pad, k in zip(shape[1:3], padding, kernel, strict=True)))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    return Case(shape, kernel, strides, padding, (1, 1), np.random.default_rng(draw(st.integers(0, 2**32))),
                draw(st.sampled_from(LEVELS)), draw(st.integers(2, 4)))


@given(case=sliding_cases())
@settings(max_examples=300)
def test_columns_that_slide(case):
    check_depthwise(case, DepthwiseConv2D(case.kernel, case.strides, case.padding), case.source())


@pytest.mark.parametrize(("layer", "slides"), [
    (DepthwiseConv2D(3), True), (DepthwiseConv2D((2, 7), (4, 2)), True), (DepthwiseConv2D((3, 4)), False),
    (DepthwiseConv2D(3, strides=(1, 3)), False), (DepthwiseConv2D(3, dilation=(2, 1)), False),
    (DepthwiseConv2D(3, dilation=(1, 2)), False)])
def test_which_windows_slide(layer, slides):
    src = cx.Input((9, 9, 4))
    assert ("columns slide" in cx.Model(src, layer(src)).plan(1).explain()) == slides


@given(case=cases(channels=st.sampled_from([1, 3, 5])), multiplier=st.sampled_from([2, 3, 17]))
@settings(max_examples=80)
def test_several_windows_per_channel(case, multiplier):
    check_depthwise(case, DepthwiseConv2D(case.kernel, case.strides, case.padding, case.dilation, multiplier),
                    case.source())


@given(case=cases(), post=st.sampled_from([None, ("tanh", ()), ("leaky_relu", (0.2,))]), with_add=st.booleans(),
       bounds=st.sampled_from([(-np.inf, np.inf), (0.0, 6.0), (-0.5, 0.5)]))
@settings(max_examples=150)
def test_epilogue(case, post, with_add, bounds):
    """bias, then what is added, then the clip, then the function."""
    src = case.source()
    layer = DepthwiseConv2D(case.kernel, case.strides, case.padding, case.dilation)
    weights, bias = random_weights(layer, src.shape, case.rng)
    added = case.rng.standard_normal(layer.infer_shapes(src.shape)[0]).astype(np.float32)
    x, extra = Value(src.shape, FLOAT32, "x"), Value(added.shape, FLOAT32, "extra")
    graph = Graph([x, extra], [])
    graph.outputs.append(graph.apply1(layer, x, weights=layer.weight_values()))
    graph.nodes[0].epilogue = Epilogue(extra if with_add else None, *bounds, post)
    one, many = (run_graph(graph, [guarded_copy(src), guarded_copy(added)], level=case.level, n_threads=n)[0]
                 for n in (1, case.threads))
    y = reference.depthwise_conv2d(src.astype(np.float64), weights, bias, strides=case.strides, padding=case.padding,
                                   dilation=case.dilation)
    y = np.clip(y + added if with_add else y, *bounds)
    functions = {None: lambda v: v, "tanh": np.tanh, "leaky_relu": lambda v: np.where(v > 0, v, 0.2 * v)}
    agree(one, functions[post and post[0]](y), 1e-5 * max(np.abs(y).max(), 1))
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("use_bias", [True, False])
def test_fold_affine_is_an_affine_of_the_result(multiplier, use_bias):
    rng = np.random.default_rng(0)
    src = rng.standard_normal((2, 6, 5, 7)).astype(np.float32)
    layer = DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier, use_bias=use_bias)
    random_weights(layer, src.shape, rng)
    scale, shift = (rng.standard_normal(7 * multiplier).astype(np.float32) for _ in range(2))
    x = Value(src.shape, FLOAT32, "x")
    graph = Graph([x], [])
    plain = graph.apply1(layer, x, weights=layer.weight_values())
    folded = layer.fold_affine(graph, graph.nodes[0], constant(scale), constant(shift))
    graph.outputs = [plain, graph.apply1(layer, x, weights=folded)]
    y, z = run_graph(graph, [guarded_copy(src)])
    close(z, y.astype(np.float64) * scale + shift)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("strides", [1, 2])
def test_gaps_between_pixels_change_nothing(strides, level):
    rng = np.random.default_rng(0)
    src = rng.standard_normal((2, 7, 9, 256)).astype(np.float32)
    layer = DepthwiseConv2D(3, strides, "same")
    random_weights(layer, src.shape, rng)
    between = Between(layer)
    between.build(src.shape)
    for key, parameter in layer.weights.items():
        between.weights[key].assign(parameter.data)
    diff_dst = rng.standard_normal(layer.infer_shapes(src.shape)[0]).astype(np.float32)
    dense, gaps = (run_layer(x, [src], [diff_dst], level=level) for x in (layer, between))
    np.testing.assert_array_equal(dense.outputs[0], gaps.outputs[0])
    np.testing.assert_array_equal(dense.diff_inputs[0], gaps.diff_inputs[0])
    for key, diff in dense.diff_weights.items():
        np.testing.assert_array_equal(diff, gaps.diff_weights[key])


def test_shapes_and_channels_first():
    layer = DepthwiseConv2D(3, 2, "same", depth_multiplier=2, data_format="channels_first")
    assert layer.infer_shapes((None, 3, 7, None)) == [(None, 6, 4, None)]
    src = np.random.default_rng(0).standard_normal((2, 3, 7, 5)).astype(np.float32)
    weights, bias = random_weights(layer, src.shape, np.random.default_rng(1))
    expected = reference.depthwise_conv2d(src.astype(np.float64).transpose(0, 2, 3, 1), weights, bias, strides=(2, 2),
                                          padding=((1, 1), (1, 1)))
    close(run_layer(layer, [src]).outputs[0], expected.transpose(0, 3, 1, 2))


BAD = [
    (lambda: DepthwiseConv2D(0), r"depthwiseconv2d: `kernel_size` must be at least 1"),
    (lambda: DepthwiseConv2D(3, depth_multiplier=0), r"`depth_multiplier` must be at least 1"),
    (lambda: DepthwiseConv2D(9).infer_shapes((1, 8, 8, 3)), r"`kernel_size` must fit on the padded source"),
    (lambda: DepthwiseConv2D(3).infer_shapes((1, 8, 8)), r"`src` must have rank 4, \(N, H, W, C\)"),
    (lambda: DepthwiseConv2D(3).infer_shapes((1, 8, 8, None)), r"`src` must have a known number of channels"),
    (lambda: DepthwiseConv2D(3, 2, strict=True).infer_shapes((1, 8, 8, 3)), r"`strides` must divide the 5 steps"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
