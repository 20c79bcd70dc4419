"""History: every value is in a chart, the best epoch is marked."""

from __future__ import annotations

import numpy as np
import pytest

import cnnext as cx
from cnnext import plot
from tests.plot.shown import overflow, texts

pytest.importorskip("matplotlib")


def lines(figure):
    """By title of the chart: the lines as (x, y) lists."""
    return {ax.get_title(loc="left"): [[np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()]
                                       for line in ax.lines] for ax in figure.axes}


def test_of_a_training():
    net = cx.Sequential([cx.Dense(3)], input_shape=(4,))
    net.compile(optimizer=cx.SGD(cx.StepDecay(0.1, 2, 0.5)), metrics=["accuracy", "top_2_error_rate"])
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 4), np.float32), rng.integers(0, 3, 32)
    history = net.fit(x, y, batch_size=16, epochs=3, validation_data=(x, y), verbose=0)
    figure = plot.history(history, title="three epochs")
    drawn = lines(figure)
    assert list(drawn) == ["loss", "accuracy", "top 2 error rate", "learning rate"]
    for name in ("loss", "accuracy", "top_2_error_rate"):
        training, validation, best = drawn[name.replace("_", " ")]
        assert training == [[1, 2, 3], history.history[name]]
        assert validation == [[1, 2, 3], history.history[f"val_{name}"]]
        values = history.history[f"val_{name}"]
        assert best[1] == [max(values) if name == "accuracy" else min(values)]
    assert drawn["learning rate"] == [[[1, 2, 3], [pytest.approx(r) for r in history.learning_rates]]]
    assert history.learning_rates == [pytest.approx(r) for r in (0.1, 0.05, 0.025)]
    assert overflow(figure) <= 0.01


def test_of_a_mapping_without_validation(tmp_path):
    figure = plot.history({"epoch": [5, 6], "loss": [2.0, 1.0]})
    assert lines(figure) == {"loss": [[[5, 6], [2, 1]]]}
    assert "training" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert not [t for t in texts(figure) if "validation" in t]
    figure.savefig(tmp_path / "h.png")
    assert (tmp_path / "h.png").stat().st_size > 1000


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("classes", [2, 10, 30])
def test_classes_are_in_one_chart(classes, validation):
    values = {"loss": [2.0, 1.0], "top_5_accuracy": [0.1, 0.2]}
    values |= {f"recall_{i}": [i / classes, 0.5] for i in range(classes)} | {"other_1": [0.0, 0.0], "f1": [0.1, 0.2]}
    if validation:
        values |= {f"val_{name}": [v + 1 for v in of] for name, of in values.items()}
    figure = plot.history(values, title="by class")
    drawn = lines(figure)
    title = next(name for name in drawn if name.startswith("recall, "))
    assert [name for name in drawn if name != title] == ["loss", "top 5 accuracy", "other 1", "f1"]
    assert drawn[title] == [[[1, 2], [i / classes + validation, 0.5 + validation]] for i in range(classes)]
    assert title.endswith(", validation") == validation and (f"to {classes - 1} (light)" in title) == (classes == 30)
    assert overflow(figure) <= 0.01


@pytest.mark.parametrize("n", [1, 2, 7])
def test_any_number_of_charts_and_one_epoch(n):
    values = {f"{i}_metric": [0.5] for i in range(n)} | {f"val_{i}_metric": [float("nan")] for i in range(n)}
    figure = plot.history(values)
    assert len(figure.axes) == n
    assert overflow(figure) <= 0.01


@pytest.mark.parametrize(("history", "error", "words"), [
    ({}, ValueError, "hold one epoch or more"),
    ({"loss": []}, ValueError, "hold one epoch or more"),
    ({"epoch": [1]}, ValueError, "hold one epoch or more"),
    ({"loss": [1, 2], "accuracy": [1]}, ValueError, "`accuracy` must hold 2 values, one for each epoch"),
    ([1, 2], TypeError, "`history` must be what fit returned"),
])
def test_what_is_no_history(history, error, words):
    with pytest.raises(error, match=f"plot.history: .*{words}"):
        plot.history(history)
