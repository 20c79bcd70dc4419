"""The conformance kit: built-in layers pass, and each kind of fault fails the check that is there for it."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

import cnnext as cx
from cnnext import reference, testing
from cnnext.layers.attributes import number
from cnnext.layers.layer import Band, ParameterSpec
from cnnext.testing import EXPECTED, FAILED, PASSED, SKIPPED, UNEXPECTED, check_layer
from tests.plugins.site import DOUBLES, native_layer

GOOD = [
    (lambda: cx.Conv2D(3, 3, activation="relu"), [(2, 6, 7, 4)]),
    (lambda: cx.Conv2D(4, 3, strides=2, groups=2, data_format="channels_first"), [(2, 4, 6, 7)]),
    (lambda: cx.DepthwiseConv2D(3), [(1, 5, 5, 3)]),
    (lambda: cx.Dense(3), [(2, 5)]),
    (lambda: cx.MaxPool2D(2), [(2, 6, 6, 3)]),
    (lambda: cx.Add(), [(2, 3, 3, 2)] * 2),
    (lambda: cx.Dropout(0.5), [(2, 8)]),
    (lambda: cx.SpatialDropout2D(0.5), [(3, 4, 5, 8)]),
    (lambda: cx.SpatialDropout2D(0.5, data_format="channels_first"), [(3, 8, 4, 5)]),
    (lambda: cx.PReLU(), [(2, 4, 4, 3)]),
    (lambda: cx.SeparableConv2D(4, 3), [(2, 6, 7, 3)]),
    (lambda: cx.Softmax(), [(3, 7)]),
]


@pytest.mark.parametrize(("make", "shapes"), GOOD)
def test_built_in_layers_pass(make, shapes):
    report = check_layer(make(), shapes)
    assert report.ok, report
    assert report.outcome("forward") == SKIPPED


class Scale(cx.Layer):
    """dst = factor * scale * src, with a scale per channel that is learned"""

    type_name = "acme/Scale@1"
    factor: float = number(2.0)

    def parameters(self, *shapes):
        return {"scale": ParameterSpec((shapes[0][-1],), "glorot_uniform", 3, 3)}

    def output_shape(self, *shapes):
        return shapes[0]

    def forward(self, ctx, x):
        ctx.x = x
        return self.factor * ctx.weights["scale"] * x

    def backward(self, ctx, dy):
        ctx.diff_weights["scale"] = self.factor * (dy * ctx.x).sum(tuple(range(dy.ndim - 1)))
        return [self.factor * ctx.weights["scale"] * dy]


def twin(x, scale):
    return 2 * scale * x


def test_a_numpy_layer_passes_with_and_without_a_reference():
    report = check_layer(Scale(), [(2, 3, 4)], reference=twin)
    assert report.ok, report
    assert report.outcome("forward") == PASSED
    assert "against the reference" in str(report)
    assert check_layer(Scale(), [(2, 3, 4)]).ok


class BorderInEachBand(cx.AvgPool2D):
    """Takes the edge of a band for the border of the image."""

    type_name = "acme/BorderInEachBand@1"

    def band(self, node, first, last):
        return Band(((first, last),))


def test_rows_by_themselves_are_compared_with_the_whole():
    shapes, options = [(2, 5, 4, 3)], dict(pool_size=3, strides=1, padding="same")
    assert check_layer(cx.AvgPool2D(**options), shapes).outcome("bands") == PASSED
    report = check_layer(BorderInEachBand(**options), shapes)
    assert report.outcome("bands") == FAILED and "by bands of 1 rows" in str(report), report
    assert check_layer(cx.GlobalAvgPool2D(keepdims=True), shapes).outcome("bands") == SKIPPED


def test_the_twin_of_a_convolution_is_a_reference():
    def convolution(x, weights, bias):
        return reference.conv2d(x, weights, bias)

    report = check_layer(cx.Conv2D(2, 3), [(2, 5, 6, 3)], reference=convolution)
    assert report.ok and "against the reference" in str(report), report


class ForgetsAttribute(Scale):
    def config(self):
        return {}


class WrongShapeRule(Scale):
    def output_shape(self, *shapes):
        return (*shapes[0][:-1], shapes[0][-1] + 1)


class ForgetsOpenBatch(Scale):
    def output_shape(self, *shapes):
        return (shapes[0][0] or 1, *shapes[0][1:])


class IndexErrorOnRank(Scale):
    def output_shape(self, *shapes):
        return (*shapes[0][:2], shapes[0][2])


class WrongForward(Scale):
    def forward(self, ctx, x):
        return 1.001 * super().forward(ctx, x)


class WrongGradient(Scale):
    def backward(self, ctx, dy):
        return [1.02 * super().backward(ctx, dy)[0]]


class WrongWeightGradient(Scale):
    def backward(self, ctx, dy):
        diffs = super().backward(ctx, dy)
        ctx.diff_weights["scale"] = ctx.diff_weights["scale"][::-1]
        return diffs


class NoGradient(Scale):
    gradient = cx.Layer.gradient
    backward = cx.Layer.backward


class ForgetsWeightGradient(Scale):
    def backward(self, ctx, dy):
        return [self.factor * ctx.weights["scale"] * dy]


class Random(Scale):
    generator = np.random.default_rng(1)

    def forward(self, ctx, x):
        return super().forward(ctx, x) * (1 + 0.1 * self.generator.random(x.shape))


class WritesInput(Scale):
    def forward(self, ctx, x):
        y = super().forward(ctx, x).copy()
        x.flags.writeable = True
        x *= 2
        return y


class WritesWeights(Scale):
    def forward(self, ctx, x):
        y = super().forward(ctx, x).copy()
        ctx.weights["scale"].flags.writeable = True
        ctx.weights["scale"] += 1
        return y


class MixesSamples(Scale):
    def forward(self, ctx, x):
        return super().forward(ctx, x) - x.mean(0, keepdims=True)


class NotFinite(Scale):
    def forward(self, ctx, x):
        with np.errstate(invalid="ignore"):
            return np.sqrt(super().forward(ctx, x))


class KeepsState(Scale):
    def validate(self):
        self.calls = 0

    def forward(self, ctx, x):
        self.calls += 1
        return self.calls * super().forward(ctx, x)


class UnfitForFiles(Scale):
    def config(self):
        return {"factor": self.factor + 1}


FAULTS = [
    (UnfitForFiles, {}, "model file"),
    (WrongShapeRule, {}, "shapes"),
    (ForgetsOpenBatch, {}, "shapes"),
    (IndexErrorOnRank, {}, "bad shapes"),
    (WrongForward, {"reference": twin}, "forward"),
    (WrongGradient, {}, "gradient"),
    (WrongGradient, {"reference": twin}, "gradient"),
    (WrongWeightGradient, {}, "gradient"),
    (NoGradient, {}, "gradient"),
    (ForgetsWeightGradient, {}, "gradient"),
    (Random, {}, "threads"),
    (MixesSamples, {}, "samples"),
    (NotFinite, {}, "modes"),
    (KeepsState, {}, "threads"),
    (KeepsState, {}, "pickle"),
]


@pytest.mark.parametrize(("cls", "arguments", "check"), FAULTS)
def test_a_fault_fails_its_check(cls, arguments, check):
    report = check_layer(cls(), [(2, 3, 4)], **arguments)
    assert not report.ok
    assert report.outcome(check) == FAILED, report


def test_a_loss_of_attributes_shows():
    report = check_layer(ForgetsAttribute(factor=3.0), [(2, 3, 4)])
    assert report.outcome("model file") == FAILED, report


@pytest.mark.parametrize("cls", [WritesInput, WritesWeights])
def test_views_of_the_engines_memory_cannot_be_written(cls):
    report = check_layer(cls(), [(2, 3, 4)])
    assert not report.ok
    assert report.outcome("guard zones") == FAILED or report.outcome("modes") == FAILED, report


REVERSES = DOUBLES.replace("2 * src[i]", "src[n - 1 - i]")


@pytest.mark.parametrize(("body", "elementwise", "outcome"), [
    (DOUBLES, True, PASSED), (REVERSES, False, PASSED), (REVERSES, True, FAILED),
    (DOUBLES.replace("return 0", "src[0] = 0\n    return 0"), False, FAILED),
], ids=["elementwise", "no elementwise", "said to be elementwise", "writes its source"])
def test_memory_that_is_shared(body, elementwise, outcome):
    names = {"__name__": "acme"}
    exec(native_layer(body).replace("{}, entry", f"{{}}, elementwise={elementwise}, entry"), names)
    report = check_layer(names["Double"](), [(2, 3, 4)])
    assert report.outcome("in place") == outcome, report


class HangsInChild(Scale):
    process = os.getpid()

    def forward(self, ctx, x):
        if os.getpid() != self.process:
            time.sleep(600)
        return super().forward(ctx, x)


class DiesInChild(HangsInChild):
    def forward(self, ctx, x):
        if os.getpid() != self.process:
            os._exit(3)
        return super().forward(ctx, x)


class RaisesInChild(HangsInChild):
    def forward(self, ctx, x):
        return Scale.forward(self, ctx, x) / (os.getpid() == self.process or None)


class DiffersInChild(HangsInChild):
    def forward(self, ctx, x):
        return Scale.forward(self, ctx, x) * (1 if os.getpid() == self.process else 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize(("cls", "words"), [
    (HangsInChild, "did not finish within 1 s"), (DiesInChild, "a forked child died"),
    (RaisesInChild, "in a forked child: TypeError"), (DiffersInChild, "differs in a forked child"),
])
def test_a_forked_child_that_fares_otherwise(monkeypatch, cls, words):
    monkeypatch.setattr(testing, "FORK_SECONDS", 1)
    report = check_layer(cls(), [(2, 3, 4)])
    assert [r.check for r in report.results if not r.ok] == ["fork"], report
    assert words in str(report)


def test_without_fork_its_check_is_skipped(monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    report = check_layer(Scale(), [(2, 3, 4)])
    assert report.ok and report.outcome("fork") == SKIPPED


def test_expected_failures_are_strict():
    reason = {"samples": "subtracts the mean of the batch"}
    report = check_layer(MixesSamples(), [(2, 3, 4)], expected_failures={**reason, "gradient": "inference only"})
    assert report.outcome("samples") == EXPECTED and "subtracts the mean" in str(report), report
    report = check_layer(Scale(), [(2, 3, 4)], expected_failures=reason)
    assert report.outcome("samples") == UNEXPECTED
    assert not report.ok
    with pytest.raises(ValueError, match="unknown check 'sample'. Did you mean 'samples'"):
        check_layer(Scale(), [(2, 3, 4)], expected_failures={"sample": "typing error"})


def test_a_layer_that_cannot_be_built_is_reported():
    report = check_layer(cx.Conv2D(2, 5), [(1, 3, 3, 2)])
    assert [r.check for r in report.results] == ["build"] and not report.ok


def test_without_a_type_name_files_are_skipped():
    class Nameless(Scale):
        type_name = ""

    report = check_layer(Nameless(), [(2, 3, 4)])
    assert report.ok and report.outcome("model file") == report.outcome("pickle") == SKIPPED, report


def test_the_report_card_is_json_too():
    report = check_layer(Scale(factor=3.0), [(2, 3, 4)])
    card = json.loads(report.to_json())
    assert card["layer"] == "Scale(factor=3.0)" and card["input_shapes"] == [[2, 3, 4]] and card["ok"] is True
    assert {c["check"]: c["outcome"] for c in card["checks"]}["gradient"] == PASSED


def test_the_weights_are_as_before():
    layer = Scale()
    report = check_layer(layer, [(2, 3, 4)])
    assert report.ok
    assert np.abs(layer.weights["scale"].data).max() < 3
