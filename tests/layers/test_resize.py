"""Resize against ONNX's own reference implementation, in all its modes; its gradient is that of a linear map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext import reference
from cnnext.testing import run_layer
from tests.layers.agreement import LEVELS, SEED, close
from tests.layers.padded import check_padded

COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
               "tf_crop_and_resize"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
EXTENT = st.sampled_from([1, 2, 3, 5, 8, 13])


def onnx_resize(src, layer):
    """ONNX's own result for channels-last images."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    attributes = dict(mode=layer.mode, coordinate_transformation_mode=layer.coordinates, nearest_mode=layer.rounding,
                      cubic_coeff_a=layer.cubic_coeff, exclude_outside=int(layer.exclude_outside),
                      antialias=int(layer.antialias), extrapolation_value=layer.extrapolation_value)
    names = ["x", "roi", "scales" if layer.sizes is None else "", "" if layer.sizes is None else "sizes"]
    node = onnx.helper.make_node("Resize", names, ["y"], **attributes)
    region = layer.region
    feeds = {"x": src.transpose(0, 3, 1, 2), "roi": np.array([0, 0, *region[:2], 1, 1, *region[2:]], np.float32)}
    if layer.sizes is None:
        feeds["scales"] = np.array([1, 1, *layer.scales], np.float32)
    else:
        feeds["sizes"] = np.array([src.shape[0], src.shape[3], *layer.sizes], np.int64)
    graph = onnx.helper.make_graph([node], "g", [onnx.helper.make_tensor_value_info(
        n, onnx.TensorProto.INT64 if n == "sizes" else onnx.TensorProto.FLOAT, None) for n in feeds],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    return ReferenceEvaluator(model).run(None, feeds)[0].transpose(0, 2, 3, 1)


def matrix_of(layer, shape):
    """The linear map of a resizing, (OH * OW, H * W), from its results for unit images."""
    units = np.eye(shape[1] * shape[2], dtype=np.float32).reshape(-1, *shape[1:3], 1)
    return run_layer(layer, [units]).outputs[0].reshape(len(units), -1).T.astype(np.float64)


def check(layer, shape, level, n_threads, seed):
    rng = np.random.default_rng(seed)
    src = rng.standard_normal(shape).astype(np.float32)
    expected = onnx_resize(src, layer)
    diff_dst = rng.standard_normal(expected.shape).astype(np.float32)
    alone, team = (run_layer(layer, [src], [diff_dst], level=level, n_threads=n) for n in (1, n_threads))
    close(alone.outputs[0], expected, scale=max(np.abs(src).max(), 1))
    matrix = matrix_of(layer, shape)
    flat = diff_dst.reshape(shape[0], -1, shape[3])
    close(alone.diff_inputs[0], np.einsum("oi,noc->nic", matrix, flat).reshape(shape))
    np.testing.assert_array_equal(alone.outputs[0], team.outputs[0])
    np.testing.assert_array_equal(alone.diff_inputs[0], team.diff_inputs[0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("coordinates", COORDINATES[:-1])
@settings(max_examples=25, deadline=None)
@given(h=EXTENT, w=EXTENT, c=st.sampled_from([1, 3, 7]), sizes=st.tuples(EXTENT, EXTENT),
       mode=st.sampled_from(["nearest", "linear", "cubic"]), rounding=st.sampled_from(ROUNDINGS),
       n_threads=st.integers(2, 4), seed=SEED)
def test_sizes(level, coordinates, h, w, c, sizes, mode, rounding, n_threads, seed):
    if coordinates == "pytorch_half_pixel":
        # of a single pixel the operator's text says 0, its reference implementation -1/2
        sizes = tuple(max(n, 2) for n in sizes)
    check(cx.Resize(sizes, None, mode, coordinates, rounding), (2, h, w, c), level, n_threads, seed)


@settings(max_examples=60, deadline=None)
@given(h=st.integers(3, 12), w=st.integers(3, 12), scales=st.tuples(st.sampled_from([0.4, 0.75, 1.0, 1.5, 2.0, 2.7]),
       st.sampled_from([0.6, 1.0, 1.25, 4.0])), mode=st.sampled_from(["linear", "cubic"]), antialias=st.booleans(),
       exclude=st.booleans(), coeff=st.sampled_from([-0.75, -0.5]), seed=SEED)
def test_scales(h, w, scales, mode, antialias, exclude, coeff, seed):
    layer = cx.Resize(scales=scales, mode=mode, cubic_coeff=coeff, antialias=antialias, exclude_outside=exclude)
    check(layer, (1, h, w, 3), LEVELS[-1], 2, seed)


@settings(max_examples=40, deadline=None)
@given(h=st.integers(2, 9), w=st.integers(2, 9), sizes=st.tuples(st.integers(2, 9), st.integers(2, 9)),
       region=st.tuples(*[st.sampled_from([-0.25, 0.0, 0.375])] * 2, *[st.sampled_from([0.625, 1.0, 1.25])] * 2),
       mode=st.sampled_from(["nearest", "linear"]), seed=SEED)
def test_crop_and_resize(h, w, sizes, region, mode, seed):
    layer = cx.Resize(sizes, None, mode, "tf_crop_and_resize", region=region, extrapolation_value=10.0)
    src = np.random.default_rng(seed).standard_normal((1, h, w, 3)).astype(np.float32)
    close(run_layer(layer, [src]).outputs[0], onnx_resize(src, layer), tolerance=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 8])
@pytest.mark.parametrize("shape", [(1, 20, 30, 64), (2, 17, 40, 3), (1, 9, 200, 1)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_large(factor, shape, mode):
    src = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = reference.upsample2d(src.astype(np.float64), (factor, factor), "nearest" if mode == "nearest" else "bilinear")
    for threads in (1, 3):
        close(run_layer(cx.Resize(scales=factor, mode=mode), [src], n_threads=threads).outputs[0], expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", ["nearest", "cubic"])
def test_padded(level, mode):
    check_padded(cx.Resize((3, 5), (1.3, 1.2), mode), level)


def test_ratio_of_its_own():
    # what keep_aspect_ratio_policy makes: the extent is rounded, the ratio is not
    dst = run_layer(cx.Resize((3, 3), (1.5, 1.5)), [np.arange(4.0).reshape(1, 2, 2, 1)]).outputs[0]
    assert dst[0, :, :, 0].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_single_pixel_as_pytorch_has_it(mode):
    dst = run_layer(cx.Resize(1, mode=mode, coordinates="pytorch_half_pixel"), [np.arange(5.0, 9).reshape(1, 2, 2, 1)])
    assert dst.outputs[0].ravel().tolist() == [5.0]


def test_channels_first():
    src = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    dst = run_layer(cx.Resize(scales=(2, 3), data_format="channels_first"), [src]).outputs[0]
    np.testing.assert_array_equal(dst, src.repeat(2, axis=2).repeat(3, axis=3))


def test_shapes():
    assert cx.Resize((6, 7)).infer_shapes((None, None, 4, 3)) == [(None, 6, 7, 3)]
    assert cx.Resize(scales=(1.9, 0.5)).infer_shapes((2, 10, None, 3)) == [(2, 19, None, 3)]
    assert cx.Resize(scales=1).is_identity(False) and not cx.Resize((2, 2)).is_identity(False)


@pytest.mark.parametrize(("make", "rule"), [
    (lambda: cx.Resize(), r"`sizes` must be given, or `scales`"),
    (lambda: cx.Resize(scales=(1, 2, 3)), r"`scales` must be 2 numbers"),
    (lambda: cx.Resize(scales=(0, 1)), r"`scales` must be greater than 0"),
    (lambda: cx.Resize(2, mode="area"), r"`mode` must be one of 'nearest', 'linear', 'cubic'"),
    (lambda: cx.Resize(scales=0.1)(cx.Input((4, 40, 3))), r"`scales` must leave at least one row and column"),
])
def test_bad_arguments(make, rule):
    with pytest.raises(ValueError, match=f"^resize.*: {rule}"):
        make()
