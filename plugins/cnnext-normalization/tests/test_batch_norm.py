"""What is special to BatchNorm: running statistics, the inference form, folding, fusion with a clip, training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import twins
from cnnext_normalization import BatchNorm

import cnnext as cx
from cnnext.graph.graph import Graph, Value, ancestors
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.testing import run_layer


def randomize(layer, rng):
    for key, parameter in layer.weights.items():
        positive = key in ("gamma", "moving_variance")
        shape = parameter.data.shape
        parameter.assign(rng.uniform(0.5, 2, shape) if positive else rng.standard_normal(shape))


def block(x, filters, strides=1):
    """conv, norm, relu, conv, norm, + shortcut, relu."""
    y = cx.ReLU()(BatchNorm()(cx.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)))
    y = BatchNorm()(cx.Conv2D(filters, 3, padding="same", use_bias=False)(y))
    if strides != 1:
        x = BatchNorm()(cx.Conv2D(filters, 1, strides=strides, use_bias=False)(x))
    return cx.ReLU()(cx.Add()([y, x]))


def small_resnet():
    x = cx.Input((16, 16, 3))
    y = cx.ReLU()(BatchNorm()(cx.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    y = block(block(y, 8), 16, strides=2)
    return cx.Model(x, cx.Dense(10)(cx.GlobalAvgPool2D()(y)))


def plan_of(model, batch=2, training=False):
    shapes = [(batch, *v.shape[1:]) for v in model.graph.inputs]
    return Plan(optimize(prepare(model.graph, shapes, training)), default_level())


def test_the_inference_plan_of_a_resnet_has_no_normalization_step():
    rng = np.random.default_rng(0)
    model = small_resnet()
    norms = {node.layer for node in model.graph.nodes if isinstance(node.layer, BatchNorm)}
    for layer in norms:
        randomize(layer, rng)
    plan = plan_of(model)
    assert len(norms) == 6
    assert not [s for s in plan.steps if s.kernel.startswith("normalization/")]
    assert len([s for s in plan.steps if s.kernel in ("conv_direct", "conv_pixels", "conv_winograd")]) == 7   # six, dense
    assert not [s for s in plan.steps if s.kernel in ("unary", "binary")]

    src = rng.standard_normal((2, 16, 16, 3)).astype(np.float32)
    folded = model.predict(src)
    graph = prepare(model.graph, [src.shape], False)            # neither folded nor fused
    plain = Plan(graph, default_level())
    assert len([s for s in plain.steps if s.kernel == "normalization/normalize"]) == 6
    np.testing.assert_allclose(folded, plain.run([src])[0], rtol=0, atol=2e-5 * np.abs(folded).max())


def test_training_invalidates_what_was_folded():
    model = cx.Sequential([cx.Conv2D(4, 1), BatchNorm()], input_shape=(3, 3, 2))
    src = np.random.default_rng(0).standard_normal((1, 3, 3, 2)).astype(np.float32)
    before = model.predict(src)
    layer = next(n.layer for n in model.graph.nodes if isinstance(n.layer, BatchNorm))
    layer.weights["gamma"].assign(np.full(4, 2.0))
    np.testing.assert_allclose(model.predict(src), 2 * before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("before", [lambda: cx.Dense(6), lambda: cx.DepthwiseConv2D(3), lambda: cx.Conv2D(6, 2)])
def test_folds_into(before):
    rng = np.random.default_rng(1)
    shape = (6,) if isinstance(before(), cx.Dense) else (5, 5, 6)
    norm = BatchNorm()
    model = cx.Sequential([before(), norm], input_shape=shape)
    alone = cx.Model(model.graph.inputs[0], model.graph.nodes[0].output)
    randomize(norm, rng)
    assert not [s for s in plan_of(model).steps if s.kernel.startswith("normalization/")]
    src = rng.standard_normal((3, *shape)).astype(np.float32)
    w = {key: p.data.astype(np.float64) for key, p in norm.weights.items()}
    scale = w["gamma"] / np.sqrt(w["moving_variance"] + norm.epsilon)
    expected = (alone.predict(src) - w["moving_mean"]) * scale + w["beta"]
    np.testing.assert_allclose(model.predict(src), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_where_nothing_can_take_it_it_is_one_step_with_its_epilogue():
    rng = np.random.default_rng(2)
    norm = BatchNorm()
    model = cx.Sequential([norm, cx.ReLU6()], input_shape=(5, 4, 7))
    randomize(norm, rng)
    plan = plan_of(model)
    assert [s.kernel for s in plan.steps] == ["normalization/normalize"]
    src = 4 * rng.standard_normal((2, 5, 4, 7)).astype(np.float32)
    w = {key: p.data.astype(np.float64) for key, p in norm.weights.items()}
    expected = (src - w["moving_mean"]) / np.sqrt(w["moving_variance"] + norm.epsilon) * w["gamma"] + w["beta"]
    np.testing.assert_allclose(model.predict(src), np.clip(expected, 0, 6), rtol=0, atol=1e-5)


def test_epilogue_in_its_order():
    # + add, clip; and a function that is no clip after it
    rng = np.random.default_rng(3)
    x, other = cx.Input((4, 4, 5)), cx.Input((4, 4, 5))
    norm = BatchNorm()
    y = norm(x)
    model = cx.Model([x, other], cx.Tanh()(cx.ReLU()(cx.Add()([y, other]))))
    randomize(norm, rng)
    assert [s.kernel for s in plan_of(model).steps] == ["normalization/normalize"]
    src, add = (rng.standard_normal((2, 4, 4, 5)).astype(np.float32) for _ in range(2))
    w = {key: p.data.astype(np.float64) for key, p in norm.weights.items()}
    expected = (src - w["moving_mean"]) / np.sqrt(w["moving_variance"] + norm.epsilon) * w["gamma"] + w["beta"]
    np.testing.assert_allclose(model.predict([src, add]), np.tanh(np.maximum(expected + add, 0)), rtol=0, atol=1e-5)


def test_gradient_of_the_inference_form():
    rng = np.random.default_rng(4)
    layer = BatchNorm()
    src, diff_dst = (rng.standard_normal((3, 4, 5, 6)).astype(np.float32) for _ in range(2))
    layer.build(src.shape)
    randomize(layer, rng)
    run = run_layer(layer, [src], [diff_dst])
    w = {key: p.data.astype(np.float64) for key, p in layer.weights.items()}
    inverse = 1 / np.sqrt(w["moving_variance"] + layer.epsilon)
    z = (src - w["moving_mean"]) * inverse
    np.testing.assert_allclose(run.outputs[0], z * w["gamma"] + w["beta"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(run.diff_inputs[0], diff_dst * inverse * w["gamma"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(run.diff_weights["gamma"], (diff_dst * z).sum((0, 1, 2)), rtol=0, atol=1e-4)
    np.testing.assert_allclose(run.diff_weights["beta"], diff_dst.sum((0, 1, 2)), rtol=0, atol=1e-4)


def test_running_statistics():
    rng = np.random.default_rng(5)
    layer = BatchNorm(momentum=0.9)
    src = (3 + 2 * rng.standard_normal((8, 5, 5, 3))).astype(np.float32)
    for _ in range(2):
        run_layer(layer, [src], training=True)
    exact = src.astype(np.float64)
    np.testing.assert_allclose(layer.weights["moving_mean"].data, 0.19 * exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.weights["moving_variance"].data, 0.81 + 0.19 * exact.var((0, 1, 2)), rtol=1e-5)
    frozen = {key: p.data.copy() for key, p in layer.weights.items()}
    run_layer(layer, [src], training=False)
    for key, data in frozen.items():
        np.testing.assert_array_equal(layer.weights[key].data, data)


@pytest.mark.parametrize("activation", [cx.ReLU, cx.ReLU6])
def test_with_a_clip_behind_it_in_training(activation):
    rng = np.random.default_rng(6)
    src, diff_dst = ((2 * rng.standard_normal((3, 9, 7, 13))).astype(np.float32) for _ in range(2))
    high = 6.0 if activation is cx.ReLU6 else math.inf
    norm = BatchNorm()
    x = Value(src.shape)
    y = norm(x)
    out = activation()(y)
    graph = prepare(Graph([x], [out], ancestors([out])), [src.shape], True)
    from cnnext.graph.gradient import add_gradients

    diff = Value(src.shape)
    (weights,) = [n.weights for n in graph.nodes if "gamma" in n.weights]
    diffs = add_gradients(graph, graph.outputs, [graph.inputs[0], weights["gamma"], weights["beta"]], [diff])
    graph.outputs += [diffs[v] for v in (graph.inputs[0], weights["gamma"], weights["beta"])]
    graph.inputs.append(diff)
    graph.order()
    plan = Plan(optimize(graph), default_level())
    # no step for the activation, neither forward nor backward
    assert sorted(s.kernel.removeprefix("normalization/") for s in plan.steps) == [
        "diff_sums", "diff_terms", "moments", "moving_update", "normalize", "normalize_backward", "statistics"]
    randomize(norm, rng)
    got = plan.run([src, diff_dst], 2)
    gamma, beta = (norm.weights[key].data.astype(np.float64) for key in ("gamma", "beta"))
    exact = src.astype(np.float64)
    forward = twins.normalize(exact, gamma, beta, (0, 1, 2), norm.epsilon)
    through = diff_dst * ((forward > 0) & (forward < high))
    expected = [np.clip(forward, 0, high), *twins.normalize_backward(exact, gamma, through, (0, 1, 2), norm.epsilon)]
    for actual, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_model_trains_and_keeps_its_statistics():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 96)
    images = (rng.standard_normal((96, 16, 16, 3)) + 50 * labels[:, None, None, None]).astype(np.float32)
    cx.set_random_seed(1)
    x = cx.Input((16, 16, 3))
    y = cx.ReLU()(BatchNorm(momentum=0.5)(cx.Conv2D(8, 3)(x)))
    model = cx.Model(x, cx.Dense(3)(cx.GlobalAvgPool2D()(y)))
    model.compile(optimizer=cx.Adam(0.01), loss=cx.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=32, epochs=25, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    norm = next(n.layer for n in model.graph.nodes if isinstance(n.layer, BatchNorm))
    assert np.abs(norm.weights["moving_mean"].data).max() > 0.1
    # inference, with the running statistics, sees the same classes
    assert (model.predict(images).argmax(-1) == labels).mean() > 0.9


@pytest.mark.parametrize("kind", ["Exp", "Softplus", "Abs", "Erf", "Square", "CELU", "Sqrt", "ThresholdedReLU"])
@pytest.mark.parametrize("norm", ["BatchNorm", "LayerNorm"])
def test_any_function_may_follow(kind, norm):
    """Also those that were added to the engine after the plugin was written: it is the engine that knows their numbers."""
    rng = np.random.default_rng(5)
    src = rng.standard_normal((6, 4, 4, 8)).astype(np.float32)
    cx.set_random_seed(6)
    net = cx.Sequential([cx.layer(f"normalization/{norm}")(name="norm"), getattr(cx, kind)(name="function")],
                        input_shape=src.shape[1:])
    net.layers[0].weights["beta"].assign(np.full(8, 4))     # roots want positive numbers
    plan = plan_of(net, 6, training=True)
    assert kind in plan.explain() and not [s for s in plan.steps if s.kernel == "unary"]
    alone = cx.Model(net.graph.inputs, net.graph.nodes[0].output)
    (normalized,) = plan_of(alone, 6, training=True).run([src], 2)
    apart = cx.Sequential([getattr(cx, kind)()], input_shape=src.shape[1:])
    np.testing.assert_allclose(plan.run([src], 2)[0], apart.predict(normalized), rtol=2e-6, atol=1e-6)
    net.compile("sgd", "mse")
    assert np.isfinite(net.train_on_batch(src, np.zeros_like(src))["loss"])


# Frozen


def normed_net(seed=0):
    cx.set_random_seed(seed)
    net = cx.Sequential([cx.Conv2D(6, 3, name="conv"), BatchNorm(name="norm"), cx.ReLU(), cx.Conv2D(5, 3, name="second"),
                         BatchNorm(name="last"), cx.GlobalAvgPool2D(), cx.Dense(3, name="head")], input_shape=(9, 8, 2))
    rng = np.random.default_rng(seed)
    for name in ("norm", "last"):
        randomize(net.get_layer(name), rng)
    return net


def labelled(n=24):
    rng = np.random.default_rng(8)
    return rng.standard_normal((n, 9, 8, 2)).astype(np.float32), rng.integers(0, 3, n)


def test_frozen_it_keeps_its_statistics_and_uses_them():
    x, y = labelled()
    net = normed_net()
    for name in ("norm", "last"):
        net.get_layer(name).trainable = False
    before = {p.name: p.data.copy() for p in net.parameters}
    net.compile(cx.SGD(0.05))
    expected = net.evaluate(x, y, batch_size=24)["loss"]
    assert net.train_on_batch(x, y)["loss"] == pytest.approx(expected, rel=1e-5)      # as in inference
    changed = [p.name for p in net.parameters if not np.array_equal(p.data, before[p.name])]
    assert changed == ["conv/weights", "conv/bias", "second/weights", "second/bias", "head/weights", "head/bias"]
    net.trainable = True
    net.train_on_batch(x, y)
    assert not any(np.array_equal(p.data, before[p.name]) for p in net.parameters)


def test_gradients_through_it_frozen():
    """They are those through a frozen depthwise convolution that scales and shifts as it does."""
    x, y = labelled()
    net = normed_net()
    one = net.get_layer("norm")
    one.trainable = net.get_layer("last").trainable = False
    scale = {name: net.get_layer(name).weights["gamma"].data / np.sqrt(
        net.get_layer(name).weights["moving_variance"].data + one.epsilon) for name in ("norm", "last")}
    shift = {name: net.get_layer(name).weights["beta"].data - scale[name] * net.get_layer(name).weights["moving_mean"].data
             for name in scale}
    affine = {name: cx.DepthwiseConv2D(1, depthwise_initializer=scale[name].reshape(1, 1, -1, 1),
                                       bias_initializer=shift[name]) for name in scale}
    twin = cx.Sequential([cx.Conv2D(6, 3), affine["norm"], cx.ReLU(), cx.Conv2D(5, 3), affine["last"],
                          cx.GlobalAvgPool2D(), cx.Dense(3)], input_shape=(9, 8, 2))
    for layer in affine.values():
        layer.trainable = False
    for mine, other in zip(net.trainable_parameters, twin.trainable_parameters, strict=True):
        other.assign(mine.data)
    for each in (net, twin):
        each.compile(cx.SGD(0.05, momentum=0.9))
        each.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    for mine, other in zip(net.trainable_parameters, twin.trainable_parameters, strict=True):
        np.testing.assert_allclose(mine.data, other.data, rtol=0, atol=1e-5 * max(1, np.abs(other.data).max()))


def training_kernels(net, x):
    return [step.kernel for step in net._trainer._plan([x.shape], training=True).plan.steps]


def test_it_goes_into_the_weights_of_a_frozen_body_alone():
    x, y = labelled()
    net = normed_net()
    net.compile(cx.SGD(0.05))
    for name in ("conv", "norm", "second", "last"):
        net.get_layer(name).trainable = False
    assert not [k for k in training_kernels(net, x) if k.startswith("normalization/")]
    expected = net.evaluate(x, y, batch_size=24)["loss"]
    assert net.train_on_batch(x, y)["loss"] == pytest.approx(expected, rel=1e-5)
    net.get_layer("second").trainable = True        # its weights change, so what stands behind it stays a step
    kernels = [k.removeprefix("normalization/") for k in training_kernels(net, x) if k.startswith("normalization/")]
    assert kernels.count("normalize") == 1 and not {"moments", "statistics", "moving_update"} & set(kernels)
    net.get_layer("last").weights["gamma"].assign(np.zeros(5))      # of a frozen layer: seen by the next step
    net.get_layer("last").weights["beta"].assign(np.zeros(5))
    net.get_layer("head").weights["bias"].assign(np.zeros(3))
    assert net.train_on_batch(x, y)["loss"] == pytest.approx(math.log(3), rel=1e-6)


def test_statistics_that_a_frozen_layer_shares_with_another():
    x, y = labelled()
    cx.set_random_seed(0)
    one, other = BatchNorm(name="one"), BatchNorm(name="other", momentum=0.5)
    src = cx.Input((9, 8, 2))
    value = one(src)
    other.build(value.shape)
    for key in ("moving_mean", "moving_variance"):
        other.weights[key] = one.weights[key]
    net = cx.Model(src, cx.Dense(3)(cx.GlobalAvgPool2D()(other(value))))
    one.trainable = False
    features = cx.Model(src, value)
    features.predict(x)     # what a plan packed must become stale
    net.compile(cx.SGD(0.0001))
    first = one.weights["moving_mean"].data.copy()
    losses = [net.train_on_batch(x + 3, y)["loss"] for _ in range(2)]
    assert not np.array_equal(one.weights["moving_mean"].data, first)
    assert np.isfinite(losses).all()
    w = {key: p.data.astype(np.float64) for key, p in one.weights.items()}
    expected = (x - w["moving_mean"]) / np.sqrt(w["moving_variance"] + one.epsilon) * w["gamma"] + w["beta"]
    np.testing.assert_allclose(features.predict(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
