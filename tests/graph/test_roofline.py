"""The roofline picture: points where the profile has them, roofs where the machine is, the longest steps named."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import cnnext as cx
from cnnext import machine
from cnnext.graph.profile import Profile, StepTime
from cnnext.machine import Ceilings

pytest.importorskip("matplotlib")

CEILINGS = Ceilings(100.0, 20.0, 80.0)
STEPS = [
    StepTime("stem", "conv_direct", 2e-3, 50_000_000, 1_000_000, ""),
    StepTime("a", "conv_direct", 1e-3, 30_000_000, 2_000_000, ""),
    StepTime("pool", "max_pool", 1e-3, 0, 100_000, ""),
    StepTime("b", "conv_direct", 2e-3, 30_000_000, 2_000_000, ""),
    StepTime("wide", "conv_depthwise", 4e-3, 4_000_000, 4_000_000, ""),
]


def drawn(steps=STEPS, n_threads=2, **options):
    return Profile(steps, n_threads, "avx2").plot_roofline(title="net", ceilings=CEILINGS, **options)


def texts(figure):
    return [text.get_text() for text in (*figure.texts, *figure.axes[0].texts)]


def test_points_and_areas():
    [ax] = drawn().axes
    of_kernel = {c.get_label(): (c.get_offsets(), c.get_sizes()) for c in ax.collections}
    places, areas = of_kernel["conv_direct: 50% of the time, 3 steps"]
    np.testing.assert_allclose(places, [(30, 40), (100, 50)])      # `a` and `b` are one layer, repeated
    assert areas[0] == pytest.approx(areas[1] * 1.5)
    places, areas = of_kernel["conv_depthwise: 40% of the time, 1 step"]
    np.testing.assert_allclose(places, [(2, 2)])
    assert areas[0] == pytest.approx(0.4 * 4000)
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_what_is_written():
    shown = texts(drawn())
    assert shown[0] == "net, 2 threads, avx2"
    assert shown[1] == "10 ms in 5 steps; areas by time; not drawn: 1 without products, 10.0% of the time"
    assert {"multiply-adds: 100 GFLOP/s", "memory: 20 GB/s", "L2 cache: 80 GB/s"} <= set(shown)
    assert shown[2:5] == ["1", "wide", "4 ms, 2 GFLOP/s, conv_depthwise"]
    assert shown[5:8] == ["2", "a and 1 alike", "3 ms, 40 GFLOP/s, conv_direct"]


def test_roofs_meet_at_the_peak():
    peak, *slopes = (line.get_xydata() for line in drawn().axes[0].lines)
    assert set(peak[:, 1]) == {100}
    for line, rate in zip(slopes, (20, 80), strict=True):
        np.testing.assert_allclose(line[:, 1], rate * line[:, 0])
        assert line[-1, 1] == pytest.approx(100)


def test_a_plan_without_products():
    figure = drawn([STEPS[2]], n_threads=1)
    assert not figure.axes[0].collections and texts(figure)[0] == "net, 1 thread, avx2"


def test_measured(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(machine, "ceilings", lambda level, n_threads: asked.append((level, n_threads)) or CEILINGS)
    plan = cx.Sequential([cx.Conv2D(8, 3, name="conv")], input_shape=(9, 9, 4)).plan(1)
    figure = plan.profile(runs=2).plot_roofline(tmp_path / "roof.png")
    assert asked == [(plan.level, 1)] and (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    assert "conv" in texts(figure)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        drawn()
