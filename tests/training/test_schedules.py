"""Schedules at their corners, and beside closed forms."""

from __future__ import annotations

import math

import pytest

import cnnext as cx


def test_step_decay():
    schedule = cx.StepDecay(0.8, step_size=3, factor=0.5)
    assert [schedule(step) for step in range(8)] == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]


def test_cosine_decay():
    schedule = cx.CosineDecay(0.5, steps=100, alpha=0.1)
    assert [schedule(step) for step in (0, 50, 100, 1000)] == pytest.approx([0.5, 0.275, 0.05, 0.05])
    assert schedule(25) == pytest.approx(0.05 + 0.45 * (1 + math.sqrt(0.5)) / 2)
    assert cx.CosineDecay(0.5, steps=4)(4) == 0


def test_one_cycle():
    schedule = cx.OneCycle(1.0, steps=100, share=0.25, start_divisor=10, end_divisor=100)
    rates = [schedule(step) for step in range(100)]
    assert [rates[0], rates[12], rates[24], rates[99], schedule(500)] == pytest.approx([0.1, 0.55, 1.0, 0.001, 0.001])
    assert rates[:25] == sorted(rates[:25])
    assert rates[24:] == sorted(rates[24:], reverse=True)
    assert (rates[61] + rates[62]) / 2 == pytest.approx(0.5005)     # half way down
    # the rates of PyTorch's OneCycleLR(max_lr=0.1, total_steps=5, pct_start=0.5), whose peak lies between two updates
    short = cx.OneCycle(0.1, steps=5, share=0.5)
    assert [short(step) for step in range(5)] == pytest.approx([0.004, 0.076, 0.09045089, 0.03454941, 4e-07], rel=1e-5)


def test_one_cycle_without_a_way_up():
    assert [cx.OneCycle(1.0, steps=2, share=0.3, end_divisor=4)(step) for step in range(2)] == pytest.approx([1.0, 0.01])


def test_warm_up():
    assert [cx.WarmUp(0.5, steps=4)(step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    after = cx.CosineDecay(0.5, steps=10)
    schedule = cx.WarmUp(after, steps=4)
    assert [schedule(step) for step in (3, 4, 9, 14)] == pytest.approx([0.4, 0.5, after(5), 0.0])


def test_an_optimizer_shows_the_rate_of_its_next_step():
    optimizer = cx.Adam(cx.StepDecay(0.1, step_size=2))
    assert optimizer.learning_rate == 0.1
    optimizer.steps = 2
    assert optimizer.learning_rate == pytest.approx(0.01)
    assert "learning_rate=StepDecay(learning_rate=0.1, step_size=2, factor=0.1)" in repr(optimizer)
    assert optimizer.schedule == cx.StepDecay(0.1, step_size=2)
    optimizer.learning_rate = 0.5
    assert optimizer.learning_rate == 0.5
    assert optimizer.schedule is None


@pytest.mark.parametrize(("make", "text"), [
    (lambda: cx.StepDecay(0, 3), "StepDecay: `learning_rate` must be greater than 0. Received learning_rate=0."),
    (lambda: cx.StepDecay(0.1, 0), "StepDecay: `step_size` must be at least 1"),
    (lambda: cx.CosineDecay(0.1, 1.5), "CosineDecay: `steps` must be a whole number"),
    (lambda: cx.CosineDecay(0.1, 10, alpha=2), "CosineDecay: `alpha` must be at most 1"),
    (lambda: cx.OneCycle(0.1, 1), "OneCycle: `steps` must be at least 2"),
    (lambda: cx.OneCycle(0.1, 10, share=1), "OneCycle: `share` must be less than 1"),
    (lambda: cx.WarmUp("fast", 10), "WarmUp: `learning_rate` must be a number"),
    (lambda: cx.WarmUp(lambda step: -1, 10)(3), "WarmUp: `learning_rate\\(0\\)` must be at least 0"),
])
def test_arguments_that_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
