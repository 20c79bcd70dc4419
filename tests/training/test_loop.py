"""Training as a whole: what is learned, the same bits for any number of threads, interruptions, and bad data."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest

import cnnext as cx
from cnnext import reference
from cnnext.graph.plan import Plan
from cnnext.graph.runner import Runner
from cnnext.training.initializers import generator
from cnnext.training.loop import MAX_PLANS, Trainer


def conv_net(n_threads=1, seed=5, classes=4, **last):
    cx.set_random_seed(seed)
    x = cx.Input((8, 8, 2))
    y = cx.Conv2D(6, 3, padding="same")(x)
    y = cx.Conv2D(5, 3, strides=2)(y)
    return cx.Model(x, cx.Dense(classes, **last)(y), num_threads=n_threads)


def conv_data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 8, 8, 2)).astype(np.float32), rng.integers(0, 4, (n, 3, 3))


def blobs(n=300, features=6, classes=3, seed=1):
    """Points around one centre per class."""
    rng = np.random.default_rng(seed)
    centres, y = rng.normal(0, 2, (classes, features)), rng.integers(0, classes, n)
    return (centres[y] + rng.normal(0, 0.5, (n, features))).astype(np.float32), y


def linear_net(features=6, classes=3, **options):
    cx.set_random_seed(0)
    return cx.Sequential([cx.Dense(classes, **options)], input_shape=(features,))


OPTIMIZERS = {
    "adam": lambda: cx.Adam(0.01, weight_decay=0.01),
    "sgd": lambda: cx.SGD(0.05),
    "nesterov": lambda: cx.SGD(0.05, momentum=0.9, nesterov=True),
    "all options": lambda: cx.AdamW(0.01, gradient_accumulation_steps=2, use_ema=True, global_clipnorm=0.5,
                                    groups=[cx.ParameterGroup("*/bias", weight_decay=0, learning_rate_multiplier=2)]),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_same_bits_for_any_number_of_threads(optimizer):
    x, y = conv_data(200)
    runs = []
    for n_threads in (1, 2, 3, 4, 4):
        net = conv_net(n_threads)
        net.compile(OPTIMIZERS[optimizer](), metrics=["accuracy"])
        history = net.fit(x, y, batch_size=64, epochs=3, validation_data=(x[:9], y[:9]), verbose=0).history
        assert any(built.plan.parallel for built in net._trainer._plans.values())
        runs.append((net.get_weights(), history))
    for weights, history in runs[1:]:
        assert history == runs[0][1]
        for mine, first in zip(weights, runs[0][0], strict=True):
            assert np.array_equal(mine, first)


def test_another_seed_gives_another_net():
    x, y = conv_data()
    nets = [conv_net(seed=seed) for seed in (1, 2)]
    for net in nets:
        net.compile("sgd")
        net.fit(x, y, verbose=0)
    assert not np.array_equal(nets[0].get_weights()[0], nets[1].get_weights()[0])


def test_steps_are_those_of_the_formula():
    """Softmax regression in NumPy, float64, through the twins: batches in order, the last one smaller."""
    x, y = blobs(70)
    net = linear_net()
    w, b = (p.astype(np.float64) for p in net.get_weights())
    velocity = [np.zeros_like(w), np.zeros_like(b)]
    losses = []
    for _ in range(2):
        for start in range(0, 70, 32):
            xs, ys = x[start : start + 32].astype(np.float64), y[start : start + 32]
            logits = xs @ w + b
            losses.append((len(ys), reference.sparse_categorical_crossentropy(logits, ys)))
            diff = reference.sparse_categorical_crossentropy_backward(logits, ys)
            w, velocity[0] = reference.sgd(w, velocity[0], xs.T @ diff, 0.2, 0.9)
            b, velocity[1] = reference.sgd(b, velocity[1], diff.sum(0), 0.2, 0.9)
    net.compile(cx.SGD(0.2, momentum=0.9), cx.SparseCategoricalCrossentropy(from_logits=True))
    history = net.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(net.get_weights()[0], w, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.get_weights()[1], b, rtol=1e-5, atol=1e-5)
    expected = [sum(n * loss for n, loss in losses[i : i + 3]) / 70 for i in (0, 3)]
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-5)
    assert history.epochs == [1, 2]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_learns(optimizer):
    x, y = blobs()
    net = linear_net()
    chosen = {"adam": cx.Adam(0.05), "sgd": cx.SGD(0.1, momentum=0.9)}[optimizer]
    net.compile(chosen, metrics=["accuracy", "error_rate"])
    history = net.fit(x, y, epochs=8, verbose=0, validation_split=0.2).history
    assert history["loss"][-1] < history["loss"][0] / 4
    assert history["val_accuracy"][-1] > 0.97
    assert history["accuracy"][-1] + history["error_rate"][-1] == pytest.approx(1)
    assert sorted(history) == ["accuracy", "error_rate", "loss", "val_accuracy", "val_error_rate", "val_loss"]


def test_regression_learns():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 5))
    y = x @ rng.normal(size=5) + 3
    net = linear_net(5, 1)
    net.compile(cx.SGD(0.1), "mse")
    assert net.fit(x, y, epochs=20, verbose=0).history["loss"][-1] < 1e-6
    np.testing.assert_allclose(net.predict(x)[:, 0], y, atol=1e-2)


def test_evaluate_does_not_depend_on_the_batch_size():
    x, y = conv_data(37)
    net = conv_net()
    net.compile("adam", metrics=["accuracy", "top_2_accuracy"])
    net.fit(x, y, verbose=0)
    logits = net.predict(x)
    whole = net.evaluate(x, y, batch_size=37)
    exact = reference.sparse_categorical_crossentropy(logits.astype(np.float64), y)
    assert whole["loss"] == pytest.approx(exact, rel=1e-6)
    assert whole["accuracy"] == pytest.approx((logits.argmax(-1) == y).mean())
    assert net.evaluate(x, y, batch_size=5) == pytest.approx(whole, rel=1e-6)


def test_evaluate_leaves_weights_and_data_order_alone():
    x, y = conv_data()
    weights = []
    for evaluates in (False, True):
        net = conv_net()
        net.compile("adam")
        net.fit(x, y, verbose=0)
        if evaluates:
            net.evaluate(x, y)
        net.fit(x, y, verbose=0)
        weights.append(net.get_weights()[0])
    assert np.array_equal(*weights)


def test_inference_sees_new_weights_after_every_step():
    x, y = conv_data()
    net = conv_net()
    net.compile(cx.SGD(0.1))
    before = net.predict(x)
    for _ in range(2):
        net.fit(x, y, verbose=0)
        after = net.predict(x)
        assert np.abs(after - before).max() > 1e-3
        assert np.array_equal(after[:32], Runner(net.graph, 1).run([x[:32]])[0])
        before = after


def test_shared_layer_adds_the_gradients_of_its_uses():
    def two_uses(shared):
        cx.set_random_seed(0)
        x = cx.Input((4,))
        first = cx.Dense(4, use_bias=False, name="first")
        second = first if shared else cx.Dense(4, use_bias=False, name="second")
        net = cx.Model(x, second(first(x)))
        net.set_weights([np.eye(4, dtype=np.float32) * 0.5] * len(net.parameters))
        return net

    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 4))
    shared, apart = two_uses(True), two_uses(False)
    for net in (shared, apart):
        net.compile(cx.SGD(0.125), "mse")
        net.fit(x, y, batch_size=8, verbose=0)
    half = np.eye(4) * 0.5
    step = sum(w - half for w in apart.get_weights())
    np.testing.assert_allclose(shared.get_weights()[0], half + step, atol=1e-6)


def test_frozen_parameters_stay():
    x, y = conv_data()
    net = conv_net()
    frozen = net.parameters[:2]
    for parameter in frozen:
        parameter.trainable = False
    before = net.get_weights()
    net.compile(cx.SGD(0.1))
    net.fit(x, y, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True)]
    assert changed == [False, False, True, True, True, True]
    frozen[0].trainable = True
    net.fit(x, y, verbose=0)
    assert not np.array_equal(before[0], net.get_weights()[0])
    for parameter in net.parameters:
        parameter.trainable = False
    with pytest.raises(ValueError, match="have a trainable parameter that the loss depends on"):
        net.fit(x, y, verbose=0)


@pytest.mark.parametrize("convert", [
    lambda x: x.astype(np.float64), lambda x: x.astype(np.float16), lambda x: np.asfortranarray(x), lambda x: [x],
    lambda x: np.repeat(x, 2, axis=0)[::2],
])
def test_real_numbers_of_any_type_and_layout(convert):
    x, y = conv_data()
    x = x.astype(np.float16).astype(np.float32)
    losses = []
    for data in (x, convert(x)):
        net = conv_net()
        net.compile("sgd")
        losses.append(net.fit(data, y, verbose=0).history["loss"])
    assert losses[0] == losses[1]


def test_images_of_bytes_and_nested_lists():
    net = linear_net(2, 2)
    net.compile(cx.SGD(1e-6))
    assert net.evaluate(np.array([[255, 0]], np.uint8), [1]) == net.evaluate([[255.0, 0.0]], np.array([1], np.int8))


def test_several_inputs():
    cx.set_random_seed(0)
    a, b = cx.Input((4,)), cx.Input((4,))
    net = cx.Model([a, b], cx.Dense(2)(cx.Add()([a, b])))
    rng = np.random.default_rng(0)
    xs, y = [rng.normal(size=(20, 4)) for _ in range(2)], rng.integers(0, 2, 20)
    net.compile("sgd", metrics=["accuracy"])
    net.fit(xs, y, verbose=0)
    sums = linear_net(4, 2)
    sums.set_weights(net.get_weights())
    sums.compile("sgd", metrics=["accuracy"])
    assert net.evaluate(xs, y) == pytest.approx(sums.evaluate(xs[0] + xs[1], y), rel=1e-5)
    with pytest.raises(ValueError, match="`x` must have one length for all inputs"):
        net.fit([xs[0], xs[1][:-1]], y)
    with pytest.raises(ValueError, match="`x` must be a list of 2 arrays"):
        net.fit(xs[0], y)


@pytest.mark.parametrize("bad_step", [1, 3])
def test_a_loss_that_is_not_finite_stops_training(bad_step):
    x, y = blobs(70)
    x[(bad_step - 1) * 16] = np.nan
    net = linear_net()
    net.compile("sgd")
    text = rf"^fit: `loss` must stay finite.*loss=nan \(epoch 1, step {bad_step}\)"
    with pytest.raises(FloatingPointError, match=text):
        net.fit(x, y, batch_size=16, shuffle=False, epochs=2, verbose=0)


def deep_net(activation="linear", dropout=0.2):
    cx.set_random_seed(4)
    return cx.Sequential([cx.Dense(8, name="first"), cx.Dropout(dropout), cx.Dense(8, activation=activation, name="second"),
                          cx.Exp(name="grow"), cx.Dense(3, name="last")], input_shape=(6,), num_threads=2)


@pytest.mark.parametrize("steps", [0, 5, 32, 39])
def test_a_bad_example_is_named_and_the_weights_are_those_before(steps):
    rng = np.random.default_rng(0)
    n = steps + 1
    x, y = rng.normal(size=(n, 6)).astype(np.float32), rng.normal(size=(n, 3)).astype(np.float32)
    bad = deep_net()
    order = np.random.default_rng(4)
    order.bit_generator.state = generator().bit_generator.state
    last = order.permutation(n)[-1]
    x[last, 1] = np.inf
    bad.compile(cx.Adam(1e-3), "mse")
    text = rf"\(epoch 1, step {n}\)\. It comes from the data: x\[{last}\] holds inf\. The weights are those before"
    with pytest.raises(FloatingPointError, match=text):
        bad.fit(x, y, batch_size=1, verbose=0)
    good = deep_net()
    good.compile(cx.Adam(1e-3), "mse")

    class Stop(cx.Callback):
        def on_batch_end(self, batch, logs):
            if batch == steps:
                raise KeyboardInterrupt

    if steps:
        with pytest.raises(KeyboardInterrupt):
            good.fit(x, y, batch_size=1, callbacks=[Stop()], verbose=0)
    assert bad.optimizer.steps == good.optimizer.steps == steps
    assert all(np.array_equal(a, b) for a, b in zip(bad.get_weights(), good.get_weights(), strict=True))
    if steps:
        assert generator().bit_generator.state != order.bit_generator.state


def test_the_first_layer_that_overflows_is_named():
    x, y = blobs(64)
    net = deep_net(dropout=0.0)
    net.compile(cx.SGD(1e-3))
    net.set_weights([w * (100 if i == 2 else 1) for i, w in enumerate(net.get_weights())])
    before = net.get_weights()
    with pytest.raises(FloatingPointError, match=r"\(epoch 1, step 1\)\. It first appears in the result of layer 'grow'"):
        net.fit(x * 100, y, batch_size=64, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True))
    assert np.isfinite(net.get_weights()[0]).all()


@pytest.mark.parametrize("rate", [1e4, 1e20])
def test_a_learning_rate_that_is_too_large(rate):
    x, y = conv_data(200)
    net = conv_net(2)
    net.compile(cx.SGD(rate), metrics=["accuracy"])
    with pytest.raises(FloatingPointError, match=r"It first appears in the result of layer '\w+.*reaches .*e\+"):
        net.fit(x, y, batch_size=2, epochs=3, verbose=0)
    assert all(np.isfinite(w).all() for w in net.get_weights())


@pytest.mark.parametrize("steps", [3, 31, 32])
def test_an_update_that_overflows_is_found(steps):
    """A finite loss with gradients beyond float32; after step 32 the next snapshot would hold infinity already."""
    x = np.full((40, 2), 1e-3, np.float32)
    y = np.zeros((40, 1), np.float32)
    y[steps - 1] = 1e15
    x[steps - 1] = 1e30
    net = linear_net(2, 1, use_bias=False)
    net.compile(cx.SGD(1e-6), "mse")
    net.set_weights([np.zeros((2, 1))])
    text = rf"epoch 1, step {steps + 1}\)\. Parameter 'dense\w*/weights' held inf after step {steps}, whose loss was finite"
    with pytest.raises(FloatingPointError, match=text):
        net.fit(x, y, batch_size=1, shuffle=False, verbose=0)
    assert net.optimizer.steps == steps - 1
    assert np.isfinite(net.get_weights()[0]).all()


def test_a_parameter_that_is_not_finite_is_named():
    x, y = conv_data()
    net = conv_net()
    net.compile("sgd")
    weights = net.get_weights()
    weights[3][2] = np.nan
    net.set_weights(weights)
    name = net.parameters[3].name
    with pytest.raises(FloatingPointError, match=f"Parameter '{name}' held nan before the step already"):
        net.fit(x, y, verbose=0)


def test_the_place_is_found_with_running_statistics_too():
    batch_norm = pytest.importorskip("cnnext_normalization").BatchNorm
    cx.set_random_seed(0)
    net = cx.Sequential([cx.Dense(5), batch_norm(), cx.Dense(5), cx.Exp(name="grow")], input_shape=(6,))
    weights = net.get_weights()
    weights[-2] *= 1e3
    net.set_weights(weights)
    net.compile("sgd")
    with pytest.raises(FloatingPointError, match="result of layer 'grow'"):
        net.fit(*blobs(64, classes=5), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(weights, net.get_weights(), strict=True))


def test_ctrl_c_between_steps_leaves_a_net_that_runs_and_trains_on():
    x, y = blobs()
    calls = []

    def stop(targets, predictions):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.0

    net = linear_net()
    net.compile(cx.SGD(0.1), metrics=[stop])
    before = net.predict(x)
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, verbose=0)
    assert np.abs(net.predict(x) - before).max() > 1e-3
    assert np.array_equal(net.predict(x[:8]), Runner(net.graph, 1).run([x[:8]])[0])
    assert net.fit(x, y, epochs=5, verbose=0).history["loss"][-1] < 0.2


def test_ctrl_c_while_a_step_runs(monkeypatch):
    x, y = blobs()
    net = linear_net()
    net.compile(cx.SGD(0.1))
    net.predict(x)
    run = Plan.run

    def interrupted(plan, *args, **kwargs):
        run(plan, *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net.fit(x, y, verbose=0)
    assert net.optimizer.steps == 1
    assert np.array_equal(net.predict(x[:8]), Runner(net.graph, 1).run([x[:8]])[0])


def test_plans_are_few():
    x, y = blobs(100)
    net = linear_net()
    net.compile("sgd")
    for batch_size in range(20, 20 + 2 * MAX_PLANS):
        net.fit(x, y, batch_size=batch_size, verbose=0)
    assert len(net._trainer._plans) == MAX_PLANS


def test_progress_lines(capsys):
    x, y = blobs(64)
    net = linear_net()
    net.compile("sgd", metrics=["accuracy"])
    net.fit(x, y, epochs=2, validation_data=(x, y))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        words = ["loss", "accuracy", "val_loss", "val_accuracy", "images/s"]
        assert re.match(rf"epoch {number}/2  loss \d\.\d{{4}}  accuracy ", line)
        assert sorted(words, key=line.index) == words
        assert line.endswith(" s")
    net.fit(x, y, verbose=0)
    net.evaluate(x, y)
    assert capsys.readouterr() == ("", "")
    net.evaluate(x, y, verbose=1)
    assert capsys.readouterr().out.startswith("evaluate  loss ")


class FakeBar:
    made: list[FakeBar] = []

    def __init__(self, total, desc, **options):
        self.total, self.desc, self.seen, self.texts, self.closed = total, desc, 0, [], False
        self.made.append(self)

    def update(self, n):
        self.seen += n

    def set_postfix_str(self, text, refresh):
        self.texts.append(text)

    def close(self):
        self.closed = True


class StopAfter(cx.Callback):
    def __init__(self, batch):
        self.batch = batch

    def on_batch_end(self, batch, logs):
        if batch == self.batch:
            raise KeyboardInterrupt


def test_progress_bar_where_tqdm_and_a_terminal_are(monkeypatch, tmp_path):
    x, y = blobs(70)
    x[-1] = np.nan
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=FakeBar))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(FakeBar, "made", [])
    net = linear_net()
    net.compile("sgd")
    net.fit(x[:-1], y[:-1], batch_size=32, epochs=2)
    assert [(bar.desc, bar.total, bar.seen, bar.closed) for bar in FakeBar.made] == [
        ("epoch 1/2", 69, 69, True), ("epoch 2/2", 69, 69, True)]
    assert all(text.startswith("loss ") for text in FakeBar.made[0].texts)
    assert len(FakeBar.made[0].texts) == 3
    with pytest.raises(FloatingPointError):
        net.fit(x, y)
    assert FakeBar.made[-1].closed
    before = len(FakeBar.made)
    net.set_weights([np.zeros_like(w) for w in net.get_weights()])
    with pytest.raises(KeyboardInterrupt):
        net.fit(x[:-1], y[:-1], batch_size=32, checkpoint=tmp_path, checkpoint_every=2, callbacks=[StopAfter(3)])
    net.fit(x[:-1], y[:-1], batch_size=32, resume=tmp_path)
    assert [bar.seen for bar in FakeBar.made[before:]] == [69, 69]
    assert len(FakeBar.made[-1].texts) == 1
    monkeypatch.setitem(sys.modules, "tqdm", None)
    net.set_weights([np.zeros_like(w) for w in net.get_weights()])
    net.fit(x[:-1], y[:-1])


GOOD = {"x": np.zeros((6, 8, 8, 2), np.float32), "y": np.zeros((6, 3, 3), np.int64)}


@pytest.mark.parametrize(("change", "error", "text"), [
    ({"x": np.zeros((6, 8, 8))}, ValueError, "`x` must have shape (N, 8, 8, 2). Received x=float64 array"),
    ({"x": np.zeros((6, 8, 8, 3))}, ValueError, "`x` must have shape (N, 8, 8, 2)"),
    ({"x": np.zeros((0, 8, 8, 2))}, ValueError, "`x` must hold at least one example"),
    ({"x": np.full((6, 8, 8, 2), "a")}, TypeError, "`x` must hold real numbers. Received x='dtype <U1'"),
    ({"x": np.full((6, 8, 8, 2), None)}, TypeError, "`x` must hold real numbers. Received x='dtype object'"),
    ({"x": np.zeros((6, 8, 8, 2), complex)}, TypeError, "`x` must hold real numbers"),
    ({"x": None}, TypeError, "`x` must hold real numbers"),
    ({"x": [[1, 2], [3]]}, ValueError, "`x` must be an array of numbers"),
    ({"y": np.zeros((5, 3, 3), np.int64)}, ValueError, "`y` must hold one target for each of the 6 examples"),
    ({"y": None}, TypeError, "`y` must hold real numbers; it is missing"),
    ({"y": 5}, ValueError, "`y` must hold one target for each of the 6 examples"),
    ({"y": np.zeros((6, 3), np.int64)}, ValueError, "`y` must have shape (N, 3, 3)"),
    ({"y": np.zeros((6, 3, 3))}, TypeError, "`y` must be whole numbers"),
    ({"y": np.full((6, 3, 3), 4)}, ValueError, "`y[0, 0, 0]` must be a label in [0, 4). Received y[0, 0, 0]=4."),
    ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
    ({"batch_size": 2.5}, ValueError, "`batch_size` must be a whole number"),
    ({"epochs": 0}, ValueError, "`epochs` must be at least 1"),
    ({"validation_data": GOOD["x"]}, ValueError, "`validation_data` must be a pair (x, y)"),
    ({"validation_data": (GOOD["x"][:, 1:], GOOD["y"])}, ValueError, "`validation_data x` must have shape (N, 8, 8"),
    ({"validation_data": (GOOD["x"], GOOD["y"] + 9)}, ValueError, "`validation_data y[0, 0, 0]` must be a label"),
    ({"validation_data": (GOOD["x"][:0], GOOD["y"][:0])}, ValueError, "`validation_data x` must hold at least one example"),
    ({"validation_data": (GOOD["x"], GOOD["y"][:4])}, ValueError, "`validation_data y` must hold one target for each"),
    ({"validation_split": 1.0}, ValueError, "`validation_split` must be less than 1"),
    ({"validation_split": 0.1}, ValueError, "`validation_split` must leave examples on both sides of 6"),
    ({"validation_split": 0.5, "validation_data": (GOOD["x"], GOOD["y"])}, ValueError, "`validation_split` must be 0"),
])
def test_bad_data_is_refused_before_anything_changes(change, error, text):
    net = conv_net()
    net.compile("sgd")
    before = net.get_weights()
    with pytest.raises(error) as caught:
        net._trainer.fit(**{**GOOD, **change})
    assert str(caught.value).startswith("fit: " + text)
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True))


def test_open_extents_are_checked_when_a_batch_is_known():
    x = cx.Input((None, None, 2))
    net = cx.Model(x, cx.Conv2D(3, 3)(x))
    net.compile("sgd")
    net.fit(np.zeros((2, 6, 5, 2)), np.zeros((2, 4, 3), np.int64), verbose=0)
    with pytest.raises(ValueError, match=r"`y` must have shape \(2, 4, 3\) in a batch"):
        net.fit(np.zeros((2, 6, 5, 2)), np.zeros((2, 4, 4), np.int64), verbose=0)


def test_a_model_of_two_outputs_is_refused():
    x = cx.Input((4,))
    net = cx.Model(x, [cx.Dense(2)(x), cx.Dense(3)(x)])
    with pytest.raises(ValueError, match="compile: `model` must have one output to be trained"):
        net.compile()


def test_trainer_holds_what_was_chosen():
    optimizer = cx.SGD(0.5)
    trainer = Trainer(linear_net(), optimizer, "mse", ["accuracy"])
    assert trainer.optimizer is optimizer
    assert repr(trainer.loss) == "MeanSquaredError()"
    assert [m.name for m in trainer.metrics] == ["accuracy"]


@pytest.mark.parametrize("from_logits", [None, False])
def test_softmax_at_the_end_trains_on_what_goes_into_it(from_logits):
    x, y = conv_data()
    loss = cx.SparseCategoricalCrossentropy(from_logits)
    nets = [conv_net(), conv_net(activation="softmax")]
    nets[0].compile(cx.SGD(0.1, momentum=0.9), metrics=["accuracy"])
    nets[1].compile(cx.SGD(0.1, momentum=0.9), loss, ["accuracy"])
    logits, softmax = (net.fit(x, y, epochs=2, shuffle=False, verbose=0).history for net in nets)
    assert softmax == logits
    for mine, other in zip(nets[1].get_weights(), nets[0].get_weights(), strict=True):
        assert np.array_equal(mine, other)
    np.testing.assert_allclose(nets[1].predict(x).sum(-1), 1, atol=1e-5)
    assert nets[1].evaluate(x, y) == nets[0].evaluate(x, y)
    kernels = [step.kernel for built in nets[1]._trainer._plans.values() for step in built.plan.steps]
    assert "softmax_backward" not in kernels


def test_probabilities_that_pass_other_layers_are_seen():
    """Softmax, then Permute and back: no longer the last node, so the loss takes logarithms of probabilities."""
    x, y = conv_data()
    source = cx.Input((8, 8, 2))
    cx.set_random_seed(5)
    features = cx.Conv2D(4, 3, strides=3, padding="same", name="last")(source)
    turned = cx.Permute((0, 2, 1, 3))(cx.Permute((0, 2, 1, 3))(cx.Softmax()(features)))
    nets = [cx.Model(source, features), cx.Model(source, turned)]
    losses = []
    for net in nets:
        net.compile("sgd")
        losses.append(net.evaluate(x, y)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    start = nets[0].get_weights()
    ends = []
    for net in nets:
        net.set_weights(start)
        net.fit(x, y, shuffle=False, verbose=0)
        ends.append(net.get_weights())
    for probabilities, logits in zip(*ends, strict=True):
        np.testing.assert_allclose(probabilities, logits, atol=1e-6)
    assert not np.array_equal(ends[0][0], start[0])


def test_from_logits_true_is_taken_at_its_word():
    x, y = conv_data()
    net = conv_net(activation="softmax")
    net.compile("sgd", cx.SparseCategoricalCrossentropy(from_logits=True))
    expected = reference.sparse_categorical_crossentropy(net.predict(x).astype(np.float64), y, from_logits=True)
    assert net.evaluate(x, y)["loss"] == pytest.approx(expected, rel=1e-5)


def test_dropout_has_a_new_seed_in_every_step_and_the_same_bits_for_any_number_of_threads():
    x, y = conv_data()

    def dropout_net(n_threads):
        cx.set_random_seed(5)
        source = cx.Input((8, 8, 2))
        hidden = cx.Dropout(0.5)(cx.Conv2D(24, 3, strides=3, padding="same")(source))
        return cx.Model(source, cx.Dense(4)(hidden), num_threads=n_threads)

    weights = []
    for n_threads in (1, 2, 4):
        net = dropout_net(n_threads)
        net.compile("sgd")
        net.fit(x, y, epochs=2, verbose=0)
        weights.append(net.get_weights())
    for other in weights[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(weights[0], other, strict=True))
    assert net.evaluate(x, y) == net.evaluate(x, y)
    frozen = dropout_net(1)
    frozen.compile(cx.SGD(1e-30))
    first, second = frozen.fit(x, y, batch_size=50, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert first != second


def test_filters_whose_activations_are_padded():
    """256 channels: pixels lie 272 apart, gradients of weights do not."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6, 6, 3)), rng.normal(size=(4, 4, 4, 2))
    source = cx.Input((6, 6, 3))
    first, second = cx.Conv2D(256, 3, use_bias=False), cx.Conv2D(2, 1, use_bias=False)
    net = cx.Model(source, second(first(source)))
    w1, w2 = (w.astype(np.float64) for w in net.get_weights())
    hidden = reference.conv2d(x, w1)
    diff = reference.mean_squared_error_backward(reference.conv2d(hidden, w2), y)
    diff_hidden = reference.conv2d_backward_data(diff, w2, hidden.shape)
    net.compile(cx.SGD(0.1), "mse")
    net.fit(x, y, shuffle=False, verbose=0)
    steps = [reference.conv2d_backward_weights(x, diff_hidden, w1.shape),
             reference.conv2d_backward_weights(hidden, diff, w2.shape)]
    for new, old, step in zip(net.get_weights(), (w1, w2), steps, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * step, atol=1e-6)
