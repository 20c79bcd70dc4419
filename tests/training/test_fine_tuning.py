"""Frozen layers, and new heads for networks that have been trained before."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

import cnnext as cx
from cnnext.data import load_mnist_5k
from cnnext.layers.layer import Layer, ParameterSpec


def body_and_head(n_threads=1):
    cx.set_random_seed(3)
    return cx.Sequential([cx.Conv2D(6, 3, name="first"), cx.Conv2D(8, 3, activation="relu", name="second"),
                          cx.GlobalAvgPool2D(name="pool"), cx.Dense(4, name="head")],
                         input_shape=(9, 9, 2), num_threads=n_threads)


def data(n=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 9, 9, 2)).astype(np.float32), rng.integers(0, 4, n)


def changed(net, before):
    return [not np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True)]


def freeze(net, *names):
    for name in names:
        net.get_layer(name).trainable = False


def step_names(net, n=8):
    shapes = [(n, *net.input_shape[1:])]
    return [(step.name, step.kernel) for step in net._trainer._plan(shapes, training=True).plan.steps]


def test_frozen_layers_stay_and_thaw():
    net, (x, y) = body_and_head(), data()
    net.compile(cx.SGD(0.1, momentum=0.9))
    freeze(net, "second")
    before = net.get_weights()
    net.fit(x, y, verbose=0)
    assert changed(net, before) == [True, True, False, False, True, True]
    assert [p.name for p in net.trainable_parameters] == ["first/weights", "first/bias", "head/weights", "head/bias"]
    net.get_layer("second").trainable = True
    net.fit(x, y, verbose=0)
    assert all(changed(net, before))
    net.trainable = False
    assert not net.trainable and not net.trainable_parameters
    with pytest.raises(ValueError, match="have a trainable parameter that the loss depends on"):
        net.fit(x, y, verbose=0)


def test_what_a_frozen_layer_shares_stays():
    x = cx.Input((4,))
    dense = cx.Dense(4, name="shared")
    net = cx.Model(x, cx.Dense(2, name="last")(dense(dense(x))))
    dense.trainable = False
    before = net.get_weights()
    net.compile(cx.SGD(0.1), "mse")
    net.train_on_batch(np.ones((3, 4)), np.ones((3, 2)))
    assert changed(net, before) == [False, False, True, True]


def test_no_gradient_below_the_lowest_trainable_layer():
    net = body_and_head()
    net.compile(cx.SGD(0.1))
    whole = step_names(net)
    freeze(net, "first", "second")
    part = step_names(net)
    # of the body only its forward pass: two convolutions, with their activation, and the pooling
    assert [kernel for name, kernel in part if name.split("/")[0] in ("first", "second", "pool")] == [
        "conv_direct", "conv_direct", "global_avg"]
    assert any(name.startswith("second/diff") for name, _ in whole)
    assert {name for name, kernel in part if kernel == "sgd"} == {"head/weights/update", "head/bias/update"}
    assert len(part) < len(whole) / 2


def test_gradients_pass_through_a_frozen_layer():
    net, (x, y) = body_and_head(), data(8)
    reference = body_and_head()
    freeze(net, "second")
    for n in (net, reference):
        n.compile(cx.SGD(0.1))
        n.train_on_batch(x, y)
    for i in (0, 1, 4, 5):
        # fixed weights may be convolved by another algorithm
        np.testing.assert_allclose(net.get_weights()[i], reference.get_weights()[i], rtol=0, atol=1e-6)


def test_a_frozen_body_is_a_feature_extractor():
    """Training the head behind a frozen body is training it on the body's results."""
    net, (x, y) = body_and_head(), data()
    features = cx.Model(net.inputs, net.get_output("pool")).predict(x)
    head = cx.Sequential([cx.Dense(4)], input_shape=(8,))
    head.set_weights(net.get_weights()[-2:])
    freeze(net, "first", "second")
    losses = []
    for model, inputs in ((net, x), (head, features)):
        cx.set_random_seed(1)
        model.compile(cx.Adam(0.01))
        losses.append(model.fit(inputs, y, batch_size=16, epochs=5, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for a, b in zip(net.get_weights()[-2:], head.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_new_weights_of_a_frozen_layer_are_used_at_once():
    # weights of frozen layers are packed once, not in each step
    x, y = data(8)
    losses = []
    for late in (False, True):
        net = body_and_head()
        freeze(net, "first")
        net.compile(cx.SGD(0.01))
        if late:
            net.train_on_batch(x, y)
        net.set_weights([np.full(w.shape, 0.1) for w in net.get_weights()])
        losses.append(net.train_on_batch(x, y)["loss"])
    assert losses[0] == losses[1]


def test_same_bits_for_any_number_of_threads():
    x, y = data(200)
    runs = []
    for n_threads in (1, 2, 4):
        net = body_and_head(n_threads)
        freeze(net, "first")
        net.compile("adam")
        net.fit(x, y, batch_size=64, epochs=2, verbose=0)
        runs.append(net.get_weights())
    for run in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(run, runs[0], strict=True))


class Centre(Layer):
    """Takes a mean away that it keeps: a NumPy layer with statistics."""

    type_name = "test/Centre@1"

    def parameters(self, *shapes):
        return {"mean": ParameterSpec((shapes[0][-1],), "ones", trainable=False)}

    def output_shape(self, *shapes):
        return shapes[0]

    def forward(self, ctx, x):
        mean = x.mean(0) if ctx.training else ctx.weights["mean"]
        return x - mean

    def backward(self, ctx, dy):
        ctx.diff_weights["mean"] = np.zeros_like(dy[0])
        return [dy]


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_statistics_of_numpy_layers(frozen):
    net = cx.Sequential([Centre(name="centre"), cx.Dense(1, use_bias=False)], input_shape=(3,))
    net.set_weights([np.full(3, 2.0), np.ones((3, 1))])
    net.get_layer("centre").trainable = not frozen
    net.compile(cx.SGD(0.1), "mse")
    x = np.array([[1.0, 2, 3], [3, 4, 5]])
    # (-1, 0, 1) + (1, 2, 3) with the mean that is kept, (-1, -1, -1) + (1, 1, 1) with that of the batch
    assert net.train_on_batch(x, np.zeros((2, 1)))["loss"] == (18.0 if frozen else 9.0)


def test_dropout_of_a_frozen_body_still_drops():
    net = cx.Sequential([cx.Dropout(0.5, name="drop"), cx.Dense(1)], input_shape=(100,))
    net.get_layer("drop").trainable = False
    net.set_weights([np.ones((100, 1)), np.zeros(1)])
    net.compile(cx.SGD(1e-9), "mse")
    assert net.train_on_batch(np.ones((4, 100)), np.full((4, 1), 100.0))["loss"] > 1


def test_files_and_copies_know_what_is_frozen(tmp_path):
    net = body_and_head()
    freeze(net, "second")
    net.save(tmp_path / "net.safetensors")
    for copy in (pickle.loads(pickle.dumps(net)), cx.load(tmp_path / "net.safetensors")):
        assert [layer.trainable for layer in copy.layers] == [True, False, True, True]
        assert [p.name for p in copy.trainable_parameters] == [p.name for p in net.trainable_parameters]


def test_trainable_is_a_truth_value():
    with pytest.raises(TypeError, match=re.escape("dense 'd': `trainable` must be True or False. Received trainable=0.")):
        cx.Dense(2, name="d").trainable = 0


def test_summary_shows_what_is_frozen():
    net = body_and_head()
    freeze(net, "first")
    lines = net.summary(show=False).splitlines()
    assert [line.split()[0] for line in lines if line.rstrip().endswith("frozen")] == ["first"]
    assert "(476 trainable)" in lines[-1]


# New heads


def test_the_classifier_is_replaced():
    net = body_and_head()
    other = net.replace_head([cx.Dense(5), cx.Softmax()])
    assert [type(layer) for layer in other.layers] == [cx.Conv2D, cx.Conv2D, cx.GlobalAvgPool2D, cx.Dense, cx.Softmax]
    assert other.output_shape == (None, 5) and net.output_shape == (None, 4)
    assert other.parameters[:4] == net.parameters[:4]
    x, _ = data(3)
    assert np.allclose(other.predict(x).sum(-1), 1, atol=1e-6)


def test_a_head_after_any_layer():
    net = body_and_head().replace_head([cx.GlobalMaxPool2D(), cx.Dense(3)], after="first")
    assert net.layers[0].name == "first" and len(net.layers) == 3
    assert net.output_shape == (None, 3)


def test_names_of_a_new_head_move_aside():
    net = cx.Sequential([cx.Dense(3, name="dense"), cx.Dense(3, name="dense_1")], input_shape=(2,))
    head = cx.Dense(2)
    head.name = "dense"    # what it is called where it is the first of a program
    other = net.replace_head(head, after="dense_1")
    assert [layer.name for layer in other.layers] == ["dense", "dense_1", "dense_2"]
    assert other.parameters[-1].name == "dense_2/bias"
    with pytest.raises(ValueError, match="`name` must be different for each layer"):
        net.replace_head(cx.Dense(2, name="dense"))


@pytest.mark.parametrize(("call", "words"), [
    (lambda net: net.get_layer("secon"), "model 'sequential': unknown layer 'secon'. Did you mean 'second'?"),
    (lambda net: net.replace_head(cx.Dense(2), after="nothing"), "unknown layer 'nothing'"),
    (lambda net: net.replace_head(cx.Conv2D(2, 3)), "`src` must have rank 4"),
    (lambda net: cx.Sequential([cx.ReLU()], input_shape=(3,)).replace_head(cx.Dense(2)), "`after` must be given"),
])
def test_what_is_wrong_is_said(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(body_and_head())


def test_the_output_of_a_layer_that_is_used_twice():
    x = cx.Input((3,))
    twice = cx.Dense(3, name="twice")
    net = cx.Model(x, twice(twice(x)))
    with pytest.raises(ValueError, match="`name` must be that of a layer with one output, applied once"):
        net.get_output("twice")


def test_an_imported_network_learns_another_task(tmp_path):
    """Trained on the digits 0 to 4, exported, read back, frozen: a new head tells 5 to 9 apart."""
    norm = pytest.importorskip("cnnext_normalization").BatchNorm
    pytest.importorskip("onnx")
    digits = load_mnist_5k()
    low, test_low = digits.y_train < 5, digits.y_test >= 5
    cx.set_random_seed(0)
    net = cx.Sequential([cx.Conv2D(12, 3, strides=2, use_bias=False), norm(momentum=0.9), cx.ReLU(),
                         cx.Conv2D(24, 3, strides=2, use_bias=False), norm(momentum=0.9), cx.ReLU(), cx.Dropout(0.1),
                         cx.Flatten(), cx.Dense(5)], input_shape=(28, 28, 1))
    net.compile("adam")
    net.fit(digits.x_train[low], digits.y_train[low], batch_size=64, epochs=3, verbose=0)
    net.export_onnx(tmp_path / "low.onnx")

    net = cx.load(tmp_path / "low.onnx")
    net.trainable = False
    net = net.replace_head(cx.Dense(5))
    body = [p for p in net.parameters if p not in net.trainable_parameters]
    before = [p.data.copy() for p in body]
    assert len(body) == 10 and [p.shape for p in net.trainable_parameters] == [(864, 5), (5,)]
    net.compile(cx.Adam(0.003), metrics=["accuracy"])
    test = digits.x_test[test_low], digits.y_test[test_low] - 5
    untrained = net.evaluate(*test)["accuracy"]
    net.fit(digits.x_train[~low], digits.y_train[~low] - 5, batch_size=64, epochs=4, verbose=0)
    assert all(np.array_equal(p.data, b) for p, b in zip(body, before, strict=True))
    assert untrained < 0.5 and net.evaluate(*test)["accuracy"] > 0.93
    net.export_onnx(tmp_path / "high.onnx")
    session = cx.InferenceSession(tmp_path / "high.onnx")
    [scores] = session.run(None, {session.get_inputs()[0].name: test[0][:50]})
    np.testing.assert_allclose(scores, net.predict(test[0][:50]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("frozen", [[], ["first"], ["second"]])
def test_activations_computed_twice_change_no_bit(frozen):
    """With frozen layers, penalties, accumulated gradients and averages too."""
    x, y = data()
    runs = []
    for twice in (False, True):
        cx.set_random_seed(3)
        net = cx.Sequential([cx.Conv2D(6, 3, name="first", kernel_regularizer="l2"), cx.SpatialDropout2D(0.2), cx.ReLU(),
                             cx.Conv2D(8, 3, activation="relu", name="second", kernel_regularizer="l1"),
                             cx.GlobalAvgPool2D(), cx.Dense(4)], input_shape=(9, 9, 2), num_threads=2)
        freeze(net, *frozen)
        net.compile(cx.Adam(0.01, gradient_accumulation_steps=2, use_ema=True, global_clipnorm=1.0),
                    checkpoint_activations=twice)
        losses = net.fit(x, y, batch_size=8, epochs=3, verbose=0).history["loss"]
        runs.append([np.array(losses), *net.get_weights()])
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
