"""Every kind of bad input is refused where it enters, in the grammar of all errors."""

import re

import numpy as np
import pytest

import cnnext as cx
from cnnext.graph.graph import Value
from tests.helpers import branched_net, images, two_ended_net

NAN, INF, HUGE = float("nan"), float("inf"), 2**31 - 1


def on(shape, layer, *more):
    """Apply a layer to inputs of these shapes (without the batch)."""
    inputs = [cx.Input(s) for s in (shape, *more)]
    return layer(inputs if more else inputs[0])


def run(layer, shape, array):
    return cx.InferenceSession(cx.Sequential([cx.Input(shape, name="x"), layer])).run(None, {"x": array})


def feed(array):
    return cx.InferenceSession(branched_net()).run(None, {"image": array})


def integers(shape):
    return Value((None, *shape), np.dtype(np.int64), "labels")


def plan_of(layer, shape):
    return cx.Sequential([layer], input_shape=shape).plan(1)


# kind of bad input -> the call, the exception, the argument that the message names
BAD_INPUT = {
    "wrong rank": [
        (lambda: on((8, 8), cx.Conv2D(3, 3)), ValueError, "src"),
        (lambda: on((8, 8, 3), cx.Conv1D(3, 3)), ValueError, "src"),
        (lambda: on((8,), cx.Conv2DTranspose(3, 3)), ValueError, "src"),
        (lambda: on((8, 8), cx.DepthwiseConv2D(3)), ValueError, "src"),
        (lambda: on((8, 8), cx.SeparableConv2D(3, 3)), ValueError, "src"),
        (lambda: on((8, 8), cx.LocallyConnected2D(3, 3)), ValueError, "src"),
        (lambda: on((8, 8), cx.MaxPool2D(2)), ValueError, "src"),
        (lambda: on((8, 8), cx.AvgPool2D(2)), ValueError, "src"),
        (lambda: on((8, 8), cx.LpPool2D(2)), ValueError, "src"),
        (lambda: on((8, 8), cx.GlobalAvgPool2D()), ValueError, "src"),
        (lambda: on((8, 8), cx.GlobalMaxPool2D()), ValueError, "src"),
        (lambda: on((8, 8), cx.UpSample2D(2)), ValueError, "src"),
        (lambda: on((8, 8), cx.ZeroPad2D(2)), ValueError, "src"),
        (lambda: on((8, 8), cx.Crop2D(2)), ValueError, "src"),
        (lambda: on((), cx.Dense(3)), ValueError, "src"),
        (lambda: on((), cx.PReLU()), ValueError, "src"),
        (lambda: on((8, 8), cx.Permute((0, 2))), ValueError, "axes"),
        (lambda: on((8, 8), cx.Concat(), (8,)), ValueError, "inputs"),
        (lambda: on((8, 8), cx.Conv2D(3, 3, data_format="channels_first")), ValueError, "src"),
        (lambda: feed(images(7, 9, 3)), ValueError, "shape"),
        (lambda: feed(images(1, 1, 7, 9, 3)), ValueError, "shape"),
        (lambda: feed(np.float32(1)[()]), TypeError, "array"),
        (lambda: branched_net().predict(images(7, 9, 3)), ValueError, "shape"),
        (lambda: branched_net().predict(3.5), TypeError, "x"),
    ],
    "wrong sizes and channels": [
        (lambda: feed(images(1, 7, 9, 4)), ValueError, "shape"),
        (lambda: feed(images(1, 9, 7, 3)), ValueError, "shape"),
        (lambda: on((8, 8, None), cx.Conv2D(3, 3)), ValueError, "src"),
        (lambda: on((None,), cx.Dense(3)), ValueError, "src"),
        (lambda: on((8, 8, 3), cx.Add(), (8, 8, 4)), ValueError, "inputs"),
        (lambda: on((8, 8, 3), cx.Concat(axis=1), (8, 9, 3)), ValueError, "inputs"),
        (lambda: on((8, 8, 3), cx.Concat(axis=4), (8, 8, 3)), ValueError, "axis"),
        (lambda: on((8, 8, 3), cx.Concat(axis=0), (8, 8, 3)), ValueError, "axis"),
        (lambda: on((8, 8, 3), cx.Add()), ValueError, "inputs"),
        (lambda: on((8, 8, 3), cx.Subtract(), (8, 8, 3), (8, 8, 3)), ValueError, "inputs"),
        (lambda: on((8, 8, 3), cx.Dense(3), (8, 8, 3)), ValueError, "inputs"),
        (lambda: on((8, 8, 3), cx.Reshape((8, 7, 3))), ValueError, "target_shape"),
        (lambda: on((8, 8, 3), cx.Reshape((-1, 5))), ValueError, "target_shape"),
        (lambda: on((8, 8, 3), cx.Crop2D(4)), ValueError, "cropping"),
        (lambda: on((8, 8, 3), cx.ZeroPad2D(8, mode="reflect")), ValueError, "padding"),
        (lambda: on((8, 8, 3), cx.Softmax(axis=4)), ValueError, "axis"),
        (lambda: on((None, 8, 3), cx.LocallyConnected2D(3, 3)), ValueError, "src"),
        (lambda: on((2, 2, 3), cx.Conv2DTranspose(3, 2, padding=((9, 9), (0, 0)))), ValueError, "padding"),
        (lambda: branched_net().set_weights([images(3)] * 6), ValueError, "wide/weights"),
        (lambda: two_ended_net().predict([images(2, 5, 6, 2), images(3, 5, 6, 2)]), ValueError, "x"),
    ],
    "dtype": [
        (lambda: feed(images(1, 7, 9, 3).astype(np.float64)), TypeError, "dtype"),
        (lambda: feed(images(1, 7, 9, 3).astype(np.int64)), TypeError, "dtype"),
        (lambda: feed(images(1, 7, 9, 3).astype(np.complex64)), TypeError, "dtype"),
        (lambda: feed(images(1, 7, 9, 3).astype(">f4")), TypeError, "dtype"),
        (lambda: feed([[1.0]]), TypeError, "array"),
        (lambda: branched_net().predict(np.full((1, 7, 9, 3), "x")), TypeError, "x"),
        (lambda: branched_net().predict(np.full((1, 7, 9, 3), None)), TypeError, "x"),
        (lambda: branched_net().predict(np.zeros((1, 7, 9, 3), complex)), TypeError, "x"),
        (lambda: cx.Dense(3)(integers((4,))), TypeError, "src"),
        (lambda: cx.Dense(3)(images(2, 4)), TypeError, "inputs"),
        (lambda: cx.Dense(3)(7), TypeError, "inputs"),
        (lambda: cx.Conv2D("8", 3), ValueError, "filters"),
        (lambda: cx.Conv2D(8.0, 3), ValueError, "filters"),
        (lambda: cx.Conv2D(True, 3), ValueError, "filters"),
        (lambda: cx.Conv2D(8, 3, use_bias="no"), ValueError, "use_bias"),
        (lambda: cx.Conv2D(8, 3, use_bias=np.array([True, False])), ValueError, "use_bias"),
        (lambda: cx.Conv2D(8, 3, data_format=np.array(["a", "b"])), ValueError, "data_format"),
        (lambda: cx.Conv2D(8, 3, activation=3), ValueError, "activation"),
        (lambda: cx.Conv2D(8, 3, activation=cx.Dense(3)), ValueError, "activation"),
        (lambda: cx.Conv2D(8, np.array([3, 3])), ValueError, "kernel_size"),
        (lambda: cx.Model("x", "y"), TypeError, "inputs"),
    ],
    "NaN and infinite attributes": [
        (lambda: cx.Conv2D(NAN, 3), ValueError, "filters"),
        (lambda: cx.Conv2D(8, (3, NAN)), ValueError, "kernel_size"),
        (lambda: cx.Conv2D(8, 3, strides=INF), ValueError, "strides"),
        (lambda: cx.Conv2D(8, 3, padding=NAN), ValueError, "padding"),
        (lambda: cx.LeakyReLU(NAN), ValueError, "negative_slope"),
        (lambda: cx.LeakyReLU(INF), ValueError, "negative_slope"),
        (lambda: cx.ELU(NAN), ValueError, "alpha"),
        (lambda: cx.Clip(NAN, 1.0), ValueError, "minimum"),
        (lambda: cx.Clip(0.0, NAN), ValueError, "maximum"),
        (lambda: cx.HardSigmoid(slope=NAN), ValueError, "slope"),
        (lambda: cx.Dropout(NAN), ValueError, "rate"),
        (lambda: cx.ZeroPad2D(1, value=NAN), ValueError, "value"),
        (lambda: cx.LpPool2D(2, power=NAN), ValueError, "power"),
        (lambda: cx.Input((NAN, 3)), ValueError, "shape"),
    ],
    "zero, negative and reversed sizes": [
        (lambda: cx.Input((0, 3)), ValueError, "shape"),
        (lambda: cx.Input((-1, 3)), ValueError, "shape"),
        (lambda: cx.Input(5), ValueError, "shape"),
        (lambda: cx.Conv2D(0, 3), ValueError, "filters"),
        (lambda: cx.Conv2D(8, 0), ValueError, "kernel_size"),
        (lambda: cx.Conv2D(8, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: cx.Conv2D(8, 3, strides=0), ValueError, "strides"),
        (lambda: cx.Conv2D(8, 3, strides=-1), ValueError, "strides"),
        (lambda: cx.Conv2D(8, 3, dilation=0), ValueError, "dilation"),
        (lambda: cx.Conv2D(8, 3, groups=0), ValueError, "groups"),
        (lambda: cx.Conv2D(8, 3, padding=-1), ValueError, "padding"),
        (lambda: cx.Conv2D(8, 3, padding=((1, -1), (0, 0))), ValueError, "padding"),
        (lambda: cx.Conv2D(8, 3, padding=(1, 1, 1)), ValueError, "padding"),
        (lambda: cx.Conv2D(8, 3, padding="full"), ValueError, "padding"),
        (lambda: cx.Conv1D(8, 0), ValueError, "kernel_size"),
        (lambda: cx.Conv2DTranspose(8, 3, strides=2, output_padding=2), ValueError, "output_padding"),
        (lambda: cx.DepthwiseConv2D(3, depth_multiplier=0), ValueError, "depth_multiplier"),
        (lambda: cx.SeparableConv2D(0, 3), ValueError, "filters"),
        (lambda: cx.LocallyConnected2D(0, 3), ValueError, "filters"),
        (lambda: cx.Dense(-3), ValueError, "units"),
        (lambda: cx.MaxPool2D(0), ValueError, "pool_size"),
        (lambda: cx.MaxPool2D(2, strides=0), ValueError, "strides"),
        (lambda: cx.AvgPool2D(2, padding=-1), ValueError, "padding"),
        (lambda: cx.LpPool2D(2, power=0.0), ValueError, "power"),
        (lambda: cx.UpSample2D(0), ValueError, "size"),
        (lambda: cx.UpSample2D(2, mode="cubic"), ValueError, "mode"),
        (lambda: cx.ZeroPad2D(-1), ValueError, "padding"),
        (lambda: cx.Crop2D(-1), ValueError, "cropping"),
        (lambda: cx.Reshape((0, 3)), ValueError, "target_shape"),
        (lambda: cx.Reshape((-1, -1)), ValueError, "target_shape"),
        (lambda: cx.Permute((0, 2, 2)), ValueError, "axes"),
        (lambda: cx.Permute((1, 0)), ValueError, "axes"),
        (lambda: cx.Dropout(1.0), ValueError, "rate"),
        (lambda: cx.Dropout(-0.1), ValueError, "rate"),
        (lambda: cx.Clip(2.0, 1.0), ValueError, "minimum"),
        (lambda: branched_net().predict(images(2, 7, 9, 3), batch_size=0), ValueError, "batch_size"),
        (lambda: cx.set_random_seed(-1), ValueError, "seed"),
        (lambda: branched_net(num_threads=0), ValueError, "num_threads"),
    ],
    "groups that do not divide": [
        (lambda: on((8, 8, 4), cx.Conv2D(9, 3, groups=3)), ValueError, "groups"),
        (lambda: on((8, 8, 9), cx.Conv2D(4, 3, groups=3)), ValueError, "groups"),
        (lambda: on((4, 8, 9), cx.Conv2D(9, 3, groups=3, data_format="channels_first")), ValueError, "groups"),
        (lambda: on((8, 4), cx.Conv1D(9, 3, groups=3)), ValueError, "groups"),
        (lambda: on((8, 8, 4), cx.Conv2DTranspose(9, 3, groups=3)), ValueError, "groups"),
    ],
    "empty batch": [
        (lambda: feed(images(0, 7, 9, 3)), ValueError, "shape"),
        (lambda: branched_net().predict(images(0, 7, 9, 3)), ValueError, "x"),
        (lambda: branched_net().plan(0), ValueError, "batch_size"),
        (lambda: run(cx.Conv2D(2, 3), (None, None, 1), images(1, 0, 5, 1)), ValueError, "shape"),
    ],
    "kernel larger than the padded input": [
        (lambda: on((2, 8, 3), cx.Conv2D(8, 3)), ValueError, "kernel_size"),
        (lambda: on((4, 8, 3), cx.Conv2D(8, 3, dilation=2)), ValueError, "kernel_size"),
        (lambda: on((2, 8, 3), cx.Conv2D(8, 5, padding=1)), ValueError, "kernel_size"),
        (lambda: on((2, 3), cx.Conv1D(8, 3)), ValueError, "kernel_size"),
        (lambda: on((2, 8, 3), cx.DepthwiseConv2D(3)), ValueError, "kernel_size"),
        (lambda: on((2, 8, 3), cx.SeparableConv2D(8, 3)), ValueError, "kernel_size"),
        (lambda: on((2, 8, 3), cx.LocallyConnected2D(8, 3)), ValueError, "kernel_size"),
        (lambda: on((1, 8, 3), cx.MaxPool2D(2)), ValueError, "pool_size"),
        (lambda: on((1, 8, 3), cx.AvgPool2D(2)), ValueError, "pool_size"),
        (lambda: run(cx.Conv2D(2, 3), (None, None, 1), images(1, 2, 5, 1)), ValueError, "kernel_size"),
        (lambda: on((8, 7, 3), cx.Conv2D(8, 2, strides=2, strict=True)), ValueError, "strides"),
        (lambda: cx.conv_output_size(2, 3), ValueError, "kernel"),
    ],
    "shapes whose product overflows": [
        (lambda: on((HUGE, HUGE, HUGE), cx.Dense(HUGE)), ValueError, "shape"),
        (lambda: on((8, 8, HUGE), cx.Conv2D(HUGE, HUGE, padding="same")), ValueError, "shape"),
        (lambda: on((HUGE, HUGE, 8), cx.LocallyConnected2D(HUGE, 3)), ValueError, "shape"),
        (lambda: plan_of(cx.ReLU(), (HUGE, HUGE, HUGE)), ValueError, "shape"),
        (lambda: plan_of(cx.UpSample2D(HUGE), (8, 8, 8)), ValueError, "shape"),
        (lambda: plan_of(cx.ZeroPad2D(HUGE), (8, 8, 8)), ValueError, "shape"),
        (lambda: plan_of(cx.Flatten(), (HUGE, HUGE, HUGE)), ValueError, "shape"),
        (lambda: branched_net().plan(HUGE), ValueError, "shape"),
        (lambda: cx.Conv2D(2**31, 3), ValueError, "filters"),
        (lambda: cx.Conv2D(10**5000, 3), ValueError, "filters"),
        (lambda: cx.Input((2**31, 3)), ValueError, "shape"),
    ],
}


@pytest.mark.parametrize(("call", "error", "argument"), [
    pytest.param(*case, id=f"{kind} {i}") for kind, cases in BAD_INPUT.items() for i, case in enumerate(cases)
])
def test_bad_input_is_refused_in_the_grammar_of_all_errors(call, error, argument):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    grammar = rf"[^`\n]+: `{re.escape(argument)}` must [^\n]+\. Received {re.escape(argument)}=[^\n]+\."
    assert re.fullmatch(grammar, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 500
