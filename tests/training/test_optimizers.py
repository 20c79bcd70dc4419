"""Optimizer kernels against their twins over several steps, in place, between guard zones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnext import reference
from cnnext._native import executor
from cnnext.graph.graph import FLOAT32, Graph, Parameter, Value
from cnnext.graph.memory import GUARD_BYTES, harmed
from cnnext.graph.passes import optimize
from cnnext.graph.plan import Plan
from cnnext.layers.elementwise import scaled
from cnnext.testing import guarded_copy
from cnnext.training.optimizers import SGD, Adam, get_optimizer

LEVELS = executor.levels()
SHAPES = [(1,), (7,), (13, 17), (127,), (3, 3, 5, 7), (2, 3, 256), (257, 129), (50_021,)]
OPTIMIZERS = [
    SGD(0.1),
    SGD(0.05, weight_decay=0.02),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    Adam(0.01),
    Adam(0.02, beta_1=0.8, beta_2=0.9, epsilon=1e-3, weight_decay=0.1),
]


def twin_step(optimizer, w, states, dw, step):
    if isinstance(optimizer, SGD):
        velocity = states[0] if states else np.zeros_like(w)
        w, velocity = reference.sgd(w, velocity, dw, optimizer.learning_rate, optimizer.momentum,
                                    optimizer.weight_decay, optimizer.nesterov)
        return w, [velocity] if states else []
    w, m, v = reference.adam(w, *states, dw, step, optimizer.learning_rate, optimizer.beta_1, optimizer.beta_2,
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
    optimizer.append(g, weights, scaled(g, dw, 1.0), hyper)
    g.order()
    plan = Plan(optimize(g), level, guard=True)
    plan.parallel = n_threads > 1
    for gradient in gradients:
        plan.run([gradient, optimizer.hyper()], n_threads)
        optimizer.steps += 1
    results = [parameter.data, *(s.data for s in optimizer.states(parameter))]
    assert all(map(guards_unharmed, results))
    return results


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(SHAPES), st.sampled_from(OPTIMIZERS), st.integers(2, 4), st.integers(0, 2**31))
def test_updates(shape, optimizer, n_threads, seed):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=shape).astype(np.float32)
    gradients = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
    w = start.astype(np.float64)
    states = [np.zeros(shape) for _ in optimizer.state_names]
    for step, gradient in enumerate(gradients, start=1):
        w, states = twin_step(optimizer, w, states, gradient.astype(np.float64), step)
    # sums that may cancel almost to nothing round like their terms: weights, velocity or first moment; squares do not
    terms = [1.0, 0.1, 0.0] if isinstance(optimizer, Adam) else [1.0, 1.0]
    for level in LEVELS:
        results = run_steps(optimizer, start, gradients, level, 1)
        for actual, expected, term in zip(results, [w, *states], terms[: len(results)], strict=True):
            assert np.abs(actual - expected).max() <= 1e-5 * max(term, np.abs(expected).max())
        for actual, again in zip(results, run_steps(optimizer, start, gradients, level, n_threads), strict=True):
            assert np.array_equal(actual, again)


def test_learning_rate_may_change_between_steps_of_one_plan():
    parameter, optimizer = Parameter("w", np.zeros(3)), SGD(1.0)
    dw, hyper = Value((3,), name="dw"), Value((1,), name="hyper")
    g = Graph([dw, hyper], [], training=True)
    optimizer.append(g, Value((3,), name="w", parameter=parameter), dw, hyper)
    plan = Plan(optimize(g), LEVELS[-1])
    for rate in (1.0, 0.25):
        optimizer.learning_rate = rate
        plan.run([np.ones(3, np.float32), optimizer.hyper()])
    assert parameter.data.tolist() == [-1.25] * 3


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
    assert repr(SGD(0.5, momentum=0.25)) == "SGD(learning_rate=0.5, momentum=0.25, nesterov=False, weight_decay=0.0)"
