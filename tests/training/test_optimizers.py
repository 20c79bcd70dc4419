"""Optimizer kernels against their twins over several steps, in place, between guard zones."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnext as cx
from cnnext import reference
from cnnext._native import executor
from cnnext.graph.graph import FLOAT32, Graph, Parameter, Value
from cnnext.graph.memory import GUARD_BYTES, harmed
from cnnext.graph.passes import optimize
from cnnext.graph.plan import Plan
from cnnext.layers.elementwise import scaled
from cnnext.testing import guarded_copy, run_graph
from cnnext.training.optimizers import SGD, Adagrad, Adam, AdamW, Lamb, RMSprop, get_optimizer

LEVELS = executor.levels()
SHAPES = [(1,), (7,), (13, 17), (127,), (3, 3, 5, 7), (2, 3, 256), (257, 129), (50_021,)]
OPTIMIZERS = [
    SGD(0.1),
    SGD(0.05, weight_decay=0.02),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    Adam(0.01),
    Adam(0.02, beta_1=0.8, beta_2=0.9, epsilon=1e-3, weight_decay=0.1),
    AdamW(0.01),
    RMSprop(0.01),
    RMSprop(0.02, rho=0.8, momentum=0.7, epsilon=1e-3, weight_decay=0.1),
    Adagrad(0.1),
    Adagrad(0.05, initial_accumulator_value=0.5, epsilon=1e-3, weight_decay=0.1),
    Lamb(0.01),
    Lamb(0.02, beta_1=0.8, beta_2=0.9, epsilon=1e-3, weight_decay=0.1),
    SGD(0.1, use_ema=True),
    SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.7),
    Adam(0.01, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=1),
    RMSprop(0.01, use_ema=True, ema_momentum=0.75),
    RMSprop(0.01, momentum=0.7, use_ema=True, ema_momentum=0.5),
    Adagrad(0.1, use_ema=True, ema_momentum=0.999),
    Lamb(0.01, use_ema=True, ema_momentum=0.8),
]


def twin_step(optimizer, w, states, dw, step):
    if isinstance(optimizer, SGD):
        velocity = states[0] if states else np.zeros_like(w)
        w, velocity = reference.sgd(w, velocity, dw, optimizer.learning_rate, optimizer.momentum,
                                    optimizer.weight_decay, optimizer.nesterov)
        return w, [velocity] if states else []
    if isinstance(optimizer, (RMSprop, Adagrad)):
        square, *rest = states
        mean = isinstance(optimizer, RMSprop)
        keep, take = (optimizer.rho, 1 - optimizer.rho) if mean else (1, 1)
        w, square, velocity = reference.rmsprop(w, square, *(rest or [0.0]), dw, optimizer.learning_rate, keep, take,
                                                optimizer.momentum if mean else 0.0, optimizer.epsilon,
                                                optimizer.weight_decay)
        return w, [square, velocity][: len(states)]
    twin = reference.lamb if isinstance(optimizer, Lamb) else reference.adam
    w, m, v = twin(w, *states, dw, step, optimizer.learning_rate, optimizer.beta_1, optimizer.beta_2,
                             optimizer.epsilon, optimizer.weight_decay)
    return w, [m, v]


def guarded_parameter(array):
    parameter = Parameter("w", array)
    parameter.data = guarded_copy(array)
    return parameter


def guards_unharmed(array):
    memory = array.base
    while memory.base is not None:
        memory = memory.base
    first = array.ctypes.data - memory.ctypes.data
    zone = memory[first - GUARD_BYTES : first + array.nbytes + GUARD_BYTES]
    return not harmed(zone, [(GUARD_BYTES, GUARD_BYTES + array.nbytes)])


def run_steps(optimizer, start, gradients, level, n_threads):
    """Weights and states after one update per gradient; the gradient comes out of the arena, as in training."""
    optimizer = copy.deepcopy(optimizer)
    parameter = guarded_parameter(start)
    for state in optimizer.states(parameter):
        state.data = guarded_copy(state.data)
    dw, hyper = Value(start.shape, name="dw"), Value((optimizer.n_hyper,), FLOAT32, "hyper")
    g = Graph([dw, hyper], [], training=True)
    weights = Value(start.shape, name="w", parameter=parameter)
    optimizer.append(g, {weights: scaled(g, dw, 1.0)}, hyper)
    g.order()
    plan = Plan(optimize(g), level, guard=True)
    plan.parallel = n_threads > 1
    for gradient in gradients:
        plan.run([gradient, optimizer.hyper()], n_threads)
        optimizer.count()
    results = [parameter.data, *(s.data for s in optimizer.states(parameter))]
    assert all(map(guards_unharmed, results))
    return results


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(SHAPES), st.sampled_from(OPTIMIZERS), st.integers(2, 4), st.integers(0, 2**31))
def test_updates(shape, optimizer, n_threads, seed):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=shape).astype(np.float32)
    gradients = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
    w = average = start.astype(np.float64)
    states = [np.full(shape, optimizer.state_start) for _ in optimizer.state_names]
    for step, gradient in enumerate(gradients, start=1):
        w, states = twin_step(optimizer, w, states, gradient.astype(np.float64), step)
        average = reference.moving_average(average, w, optimizer.ema_momentum)
    wanted = [w, *states, *([average] if optimizer.use_ema else [])]
    # sums that may cancel almost to nothing round like their terms: weights, velocity or first moment; squares do not
    terms = [1.0, 0.1, 0.0] if isinstance(optimizer, Adam) else [1.0, 1.0, 1.0]
    terms = [*terms[: 1 + len(states)], 1.0]
    for level in LEVELS:
        results = run_steps(optimizer, start, gradients, level, 1)
        for actual, expected, term in zip(results, wanted, terms[: len(results)], strict=True):
            assert np.abs(actual - expected).max() <= 1e-5 * max(term, np.abs(expected).max())
        for actual, again in zip(results, run_steps(optimizer, start, gradients, level, n_threads), strict=True):
            assert np.array_equal(actual, again)


ACCUMULATING = [    # with an epsilon that keeps roundings of means near 0 from becoming steps
    SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
    Adam(0.02, epsilon=0.01, weight_decay=0.1, gradient_accumulation_steps=3, use_ema=True, ema_momentum=0.7),
    RMSprop(0.01, epsilon=0.01, gradient_accumulation_steps=3, use_ema=True),
    Lamb(0.01, epsilon=0.01, gradient_accumulation_steps=3, use_ema=True),
]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SHAPES), st.sampled_from(ACCUMULATING), st.sampled_from([None, 0.5]), st.integers(0, 2**31))
def test_accumulated_gradients_are_one_update_by_their_mean(shape, optimizer, clipnorm, seed):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=shape).astype(np.float32)
    gradients = [rng.normal(size=shape).astype(np.float32) for _ in range(7)]
    many, one = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
    one.gradient_accumulation_steps = 1
    for each in (many, one):
        each.clipping = {} if clipnorm is None else {"clipnorm": clipnorm}
    results = run_steps(many, start, gradients, LEVELS[-1], 2)
    exact = [a.astype(np.float64) for a in gradients]
    means = [reference.mean_gradient(exact[i : i + 3]).astype(np.float32) for i in (0, 3)]
    expected = run_steps(one, start, means, LEVELS[-1], 1)
    at = 1 + many.slot_names.index("accumulated_gradient")
    np.testing.assert_array_equal(results.pop(at), gradients[6])        # waits for two others
    for actual, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-6 * max(1, np.abs(wanted).max()))


def test_steps_count_updates():
    optimizer = SGD(lambda step: 1 / (1 + step), gradient_accumulation_steps=2)
    rows = []
    for _ in range(5):
        rows.append((optimizer.steps, optimizer.accumulated, *optimizer.hyper().tolist()))
        optimizer.count()
    assert rows == [(0, 0, 0, 1), (0, 1, 1, 1), (1, 0, 0, 0.5), (1, 1, 1, 0.5), (2, 0, 0, np.float32(1 / 3))]


@pytest.mark.parametrize("make", [SGD, lambda rate, **o: SGD(rate, momentum=0.5, **o), Adam, RMSprop, Adagrad, Lamb])
def test_groups(make):
    """Each parameter of a group moves as with an optimizer of the group's rate and decay."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(5, 7)).astype(np.float32) for name in ("a/weights", "a/bias", "b/weights", "b/bias")}
    groups = [cx.ParameterGroup("*/bias", weight_decay=0), cx.ParameterGroup(lambda p: p.name[0] == "b", None, 0.25)]
    optimizer = make(0.125, weight_decay=0.5, groups=groups)
    parameters = {name: Parameter(name, array.copy()) for name, array in arrays.items()}
    values = {name: Value(p.shape, name=name, parameter=p) for name, p in parameters.items()}
    diff, hyper = Value((5, 7), name="diff"), Value((optimizer.n_hyper,), name="hyper")
    g = Graph([diff, hyper], [], training=True)
    optimizer.append(g, dict.fromkeys(values.values(), diff), hyper)
    g.order()
    plan = Plan(optimize(g), LEVELS[-1])
    gradients = [rng.normal(size=(5, 7)).astype(np.float32) for _ in range(3)]
    for gradient in gradients:
        plan.run([gradient, optimizer.hyper()], 2)
        optimizer.count()
    for name, (rate, decay) in {"a/weights": (0.125, 0.5), "a/bias": (0.125, 0.0), "b/weights": (0.03125, 0.5),
                                "b/bias": (0.125, 0.0)}.items():
        w, *_ = run_steps(make(rate, weight_decay=decay), arrays[name], gradients, LEVELS[-1], 1)
        np.testing.assert_array_equal(parameters[name].data, w)


def test_groups_of_a_model():
    net = cx.Sequential([cx.Dense(3, name="body"), cx.Dense(3, name="head")], input_shape=(3,))
    net.set_weights([np.ones(p.shape) for p in net.parameters])
    decay = cx.ParameterGroup(["*/bias", "nothing*"], weight_decay=0)
    net.compile(SGD(1.0, weight_decay=0.5, groups=[decay]), "mse")
    net.train_on_batch(np.zeros((2, 3)), np.full((2, 3), 4.0))      # what is predicted: no gradient
    assert [w.flat[0] for w in net.get_weights()] == [0.5, 1, 0.5, 1]
    text = "SGD: `groups[1]` must match a parameter; there are body/weights, body/bias, head/weights, head/bias."
    with pytest.raises(ValueError, match=re.escape(text)):
        net.compile(SGD(groups=[decay, cx.ParameterGroup("haed/*")]))


@pytest.mark.parametrize("optimizer", [lambda **o: SGD(0.1, momentum=0.9, **o), lambda **o: Adam(0.01, **o)])
def test_fit_with_accumulation_is_fit_with_large_batches(optimizer):
    """Without batch normalization four batches of 8 are one of 32: the losses agree to 1e-5 after 12 updates, the weights to
    1e-5 of the largest."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(128, 6, 6, 2)).astype(np.float32), rng.integers(0, 3, 128)
    losses, weights = [], []
    for batch_size, steps in ((32, None), (8, 4)):
        cx.set_random_seed(2)
        net = cx.Sequential([cx.Conv2D(5, 3, activation="relu"), cx.Flatten(), cx.Dense(3)], input_shape=(6, 6, 2))
        net.compile(optimizer(gradient_accumulation_steps=steps, global_clipnorm=1.0))
        losses.append(net.fit(x, y, batch_size=batch_size, epochs=3, shuffle=False, verbose=0).history["loss"])
        assert net.optimizer.steps == 12
        losses.append([net.evaluate(x, y)["loss"]])
        weights.append(net.get_weights())
    assert losses[0] == pytest.approx(losses[2], rel=1e-5) and losses[1] == pytest.approx(losses[3], rel=1e-5)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())


class Weights(cx.Callback):
    """What callbacks see of the first parameter."""

    def __init__(self):
        self.during, self.after = [], []

    def on_batch_end(self, batch, logs):
        self.during.append(self.model.parameters[0].data.copy())

    def on_epoch_end(self, epoch, logs):
        self.after.append(self.model.parameters[0].data.copy())


def test_averages_in_fit():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(40, 2))
    net, plain = (cx.Sequential([cx.Dense(2)], input_shape=(3,)) for _ in range(2))
    plain.set_weights(net.get_weights())
    start, seen = net.parameters[0].data.astype(np.float64), Weights()
    net.compile(SGD(0.1, use_ema=True, ema_momentum=0.75), "mse")
    plain.compile(SGD(0.1), "mse")
    with pytest.raises(RuntimeError, match="there are no averages of weights"), net.ema_weights():
        pass
    options = {"batch_size": 10, "epochs": 2, "shuffle": False, "verbose": 0}
    history = net.fit(x, y, validation_data=(x, y), callbacks=[seen], **options).history
    alone = Weights()
    losses = plain.fit(x, y, callbacks=[alone], **options).history["loss"]
    assert history["loss"] == losses
    assert all(np.array_equal(a, b) for a, b in zip(seen.during, alone.during, strict=True))
    averages = [start]
    for w in seen.during:
        averages.append(reference.moving_average(averages[-1], w, 0.75))
    for at, average in zip((4, 8), seen.after, strict=True):
        np.testing.assert_allclose(average, averages[at], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(net.parameters[0].data, seen.after[-1])        # in the weights' place
    assert net.evaluate(x, y, batch_size=10)["loss"] == history["val_loss"][-1]


def test_averages_for_a_while(tmp_path):
    x, y = np.ones((4, 3), np.float32), np.full((4, 2), 5.0)
    net = cx.Sequential([cx.Dense(2)], input_shape=(3,))
    net.compile(SGD(0.05, use_ema=True, ema_momentum=0.5), "mse")
    net.train_on_batch(x, y)
    now, loss = net.get_weights(), net.evaluate(x, y)["loss"]
    with net.ema_weights():
        assert net.evaluate(x, y)["loss"] > loss                # behind the weights
        net.save(tmp_path / "net.safetensors")
        inside = net.predict(x)
    assert all(np.array_equal(a, b) for a, b in zip(now, net.get_weights(), strict=True))
    np.testing.assert_array_equal(cx.load(tmp_path / "net.safetensors").predict(x), inside)
    with pytest.raises(ZeroDivisionError), net.ema_weights():
        _ = 1 / 0
    assert net.evaluate(x, y)["loss"] == loss


def test_averages_leave_frozen_layers_alone():
    x, y = np.ones((4, 3), np.float32), np.full((4, 2), 5.0)
    net = cx.Sequential([cx.Dense(3, name="body"), cx.Dense(2)], input_shape=(3,))
    net.compile(SGD(0.05, use_ema=True), "mse")
    net.train_on_batch(x, y)
    net.get_layer("body").trainable = False
    before = net.get_weights()
    net.fit(x, y, verbose=0)
    assert [np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True)] == [True, True, False, False]


def test_learning_rate_may_change_between_steps_of_one_plan():
    parameter, optimizer = Parameter("w", np.zeros(3)), SGD(1.0)
    dw, hyper = Value((3,), name="dw"), Value((optimizer.n_hyper,), name="hyper")
    g = Graph([dw, hyper], [], training=True)
    optimizer.append(g, {Value((3,), name="w", parameter=parameter): dw}, hyper)
    plan = Plan(optimize(g), LEVELS[-1])
    for rate in (1.0, 0.25):
        optimizer.learning_rate = rate
        plan.run([np.ones(3, np.float32), optimizer.hyper()])
    assert parameter.data.tolist() == [-1.25] * 3


def clipped_gradients(optimizer, gradients, level, n_threads):
    values = [Value(a.shape, name=f"dw{i}") for i, a in enumerate(gradients)]
    g = Graph(values, [])
    # computed in the arena, as in training
    g.outputs = optimizer.clipped(g, [scaled(g, v, 1.0) for v in values])
    g.order()
    return run_graph(optimize(g), [guarded_copy(a) for a in gradients], level=level, n_threads=n_threads)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3), st.sampled_from([1e-3, 0.5, 30.0, 1e4]),
       st.sampled_from(["clipnorm", "global_clipnorm", "clipvalue"]), st.integers(2, 4), st.integers(0, 2**31))
def test_clipping(shapes, bound, kind, n_threads, seed):
    rng = np.random.default_rng(seed)
    gradients = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    exact = [a.astype(np.float64) for a in gradients]
    expected = {
        "clipnorm": lambda: [reference.clip_by_norm([a], bound)[0] for a in exact],
        "global_clipnorm": lambda: reference.clip_by_norm(exact, bound),
        "clipvalue": lambda: [np.clip(a, -bound, bound) for a in exact],
    }[kind]()
    for level in LEVELS:
        results = clipped_gradients(SGD(**{kind: bound}), gradients, level, 1)
        for actual, wanted in zip(results, expected, strict=True):
            assert np.abs(actual - wanted).max() <= 2e-6 * np.abs(wanted).max()
        for actual, again in zip(results, clipped_gradients(SGD(**{kind: bound}), gradients, level, n_threads), strict=True):
            assert np.array_equal(actual, again)


@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_gradients_of_zero_and_within_bounds_stay_as_they_are(kind):
    gradients = [np.zeros(5, np.float32), np.full((2, 2), 0.25, np.float32)]
    results = clipped_gradients(SGD(**{kind: 1.0}), gradients, LEVELS[-1], 1)
    assert all(np.array_equal(*pair) for pair in zip(results, gradients, strict=True))


def test_fit_clips_the_norm_of_all_gradients():
    net = cx.Sequential([cx.Dense(4, activation="relu"), cx.Dense(2)], input_shape=(3,))
    net.compile(SGD(1.0, global_clipnorm=0.125), "mse")
    before = [p.data.copy() for p in net.parameters]
    net.train_on_batch(np.full((2, 3), 100.0, np.float32), np.full((2, 2), 50.0, np.float32))
    moved = [p.data - old for p, old in zip(net.parameters, before, strict=True)]
    assert np.sqrt(sum((m.astype(float) ** 2).sum() for m in moved)) == pytest.approx(0.125, rel=1e-4)


def test_fit_follows_a_schedule():
    net = cx.Sequential([cx.Dense(1)], input_shape=(1,))
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.5 if step == 0 else 0.0

    net.compile(SGD(schedule), "mse")
    x, y = np.ones((4, 1), np.float32), np.full((4, 1), 9.0, np.float32)
    net.fit(x, y, batch_size=4, epochs=1, verbose=0)
    after = [p.data.copy() for p in net.parameters]
    net.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert seen == [0, 1, 2]
    assert all(np.array_equal(p.data, old) for p, old in zip(net.parameters, after, strict=True))


def test_lamb_of_weights_of_zero_takes_the_plain_step():
    gradient = np.linspace(-1, 1, 50).astype(np.float32)
    w, *_ = run_steps(Lamb(0.5, epsilon=1e-3), np.zeros(50, np.float32), [gradient], LEVELS[-1], 1)
    expected, *_ = reference.adam(*np.zeros((3, 50)), gradient.astype(np.float64), 1, 0.5, epsilon=1e-3)
    np.testing.assert_allclose(w, expected, atol=1e-6)


def test_infinite_gradients_stay_where_they_are():
    gradient = np.ones(600, np.float32)
    gradient[5] = np.inf
    (w,) = run_steps(SGD(0.5), np.zeros(600, np.float32), [gradient, np.ones(600, np.float32)], LEVELS[-1], 1)
    assert np.flatnonzero(~np.isfinite(w)).tolist() == [5]
    assert (np.delete(w, 5) == -1).all()


def test_states_are_kept_and_not_trainable():
    optimizer, parameter = Adam(), Parameter("conv2d/weights", np.ones((2, 3)))
    states = optimizer.states(parameter)
    assert [s.name for s in states] == ["conv2d/weights/first_moment", "conv2d/weights/second_moment"]
    assert not any(s.trainable for s in states)
    assert optimizer.states(parameter) is states
    assert SGD().states(parameter) == []


@pytest.mark.parametrize(("make", "text"), [
    (lambda: SGD(0), "SGD: `learning_rate` must be greater than 0. Received learning_rate=0."),
    (lambda: SGD(float("nan")), "SGD: `learning_rate` must be a finite number"),
    (lambda: SGD(momentum=1.0), "SGD: `momentum` must be less than 1"),
    (lambda: SGD(momentum=-0.1), "SGD: `momentum` must be at least 0"),
    (lambda: SGD(nesterov=True), "SGD: `momentum` must be greater than 0 with nesterov=True"),
    (lambda: SGD(weight_decay=-1), "SGD: `weight_decay` must be at least 0"),
    (lambda: Adam("fast"), "Adam: `learning_rate` must be a number. Received learning_rate='fast'."),
    (lambda: Adam(beta_1=1), "Adam: `beta_1` must be less than 1"),
    (lambda: Adam(beta_2=-1), "Adam: `beta_2` must be at least 0"),
    (lambda: Adam(epsilon=0), "Adam: `epsilon` must be greater than 0"),
    (lambda: AdamW(beta_1=1), "AdamW: `beta_1` must be less than 1"),
    (lambda: RMSprop(rho=1), "RMSprop: `rho` must be less than 1"),
    (lambda: Adagrad(initial_accumulator_value=-1), "Adagrad: `initial_accumulator_value` must be at least 0"),
    (lambda: Lamb(epsilon=0), "Lamb: `epsilon` must be greater than 0"),
    (lambda: SGD(clipnorm=0), "SGD: `clipnorm` must be greater than 0"),
    (lambda: Adam(clipvalue=1, clipnorm=2), "Adam: `clipvalue` must be None where clipnorm is given"),
    (lambda: SGD(lambda step: -1.0).learning_rate, "SGD: `learning_rate(0)` must be at least 0"),
    (lambda: SGD(lambda step: float("nan")).hyper(), "SGD: `learning_rate(0)` must be a finite number"),
    (lambda: SGD(gradient_accumulation_steps=0), "SGD: `gradient_accumulation_steps` must be at least 1"),
    (lambda: Adam(use_ema=True, ema_momentum=1), "Adam: `ema_momentum` must be less than 1"),
    (lambda: cx.ParameterGroup("*", weight_decay=-1), "ParameterGroup: `weight_decay` must be at least 0"),
    (lambda: cx.ParameterGroup("*", learning_rate_multiplier=-1), "`learning_rate_multiplier` must be at least 0"),
    (lambda: get_optimizer("adan"), "unknown optimizer 'adan'. Did you mean 'adam'"),
])
def test_arguments_that_are_refused(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert text in str(caught.value)


def test_optimizers_by_name():
    assert isinstance(get_optimizer("adam"), Adam)
    assert isinstance(get_optimizer("SGD"), SGD)
    mine = SGD()
    assert get_optimizer(mine) is mine
    with pytest.raises(TypeError, match=r"must be a name or an optimizer object. Received optimizer=<class .*SGD"):
        get_optimizer(SGD)
    assert isinstance(get_optimizer("rmsprop"), RMSprop)
    assert get_optimizer("adamw").weight_decay == 0.004
    assert repr(Lamb(0.5, clipvalue=2)).endswith("weight_decay=0.0, clipvalue=2.0)")
    assert repr(SGD(gradient_accumulation_steps=4, use_ema=True)).endswith(
        "weight_decay=0.0, gradient_accumulation_steps=4, use_ema=True, ema_momentum=0.99)")
    with pytest.raises(TypeError, match="`groups` must be a list of ParameterGroup"):
        SGD(groups=["*/bias"])
    with pytest.raises(TypeError, match="`match` must be a pattern of names, a list of them, or a function"):
        cx.ParameterGroup(3)
    assert repr(SGD(0.5, momentum=0.25)) == "SGD(learning_rate=0.5, momentum=0.25, nesterov=False, weight_decay=0.0)"
