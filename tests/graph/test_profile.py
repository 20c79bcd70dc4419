"""``plan.profile()``: the plan's steps with times, as text and as a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import cnnext as cx


@pytest.mark.parametrize("given", [False, True])
def test_profile(tmp_path, given):
    net = cx.Sequential([cx.Conv2D(8, 3, name="stem"), cx.Flatten(), cx.Dense(5, name="head")], input_shape=(9, 9, 3))
    plan = net.plan(2)
    profile = plan.profile([np.ones((2, 9, 9, 3), np.float32)] if given else None, runs=3)
    assert [(s.name, s.kernel, s.macs) for s in profile.steps] == [(s.name, s.kernel, s.macs) for s in plan.steps]
    assert all(s.seconds > 0 and s.gbytes > 0 for s in profile.steps)
    assert profile.seconds == pytest.approx(sum(s.seconds for s in profile.steps))
    printed = str(profile)
    assert "all 2 of conv_direct" in printed and "0 stem (conv_direct)" in printed and "1 head (conv_direct)" in printed
    profile.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [e["name"] for e in events] == ["stem", "head"] and all(e["ph"] == "X" for e in events)
    assert events[1]["ts"] == pytest.approx(events[0]["dur"])
    assert np.array_equal(plan.run([np.ones((2, 9, 9, 3), np.float32)])[0], net.predict(np.ones((2, 9, 9, 3), np.float32)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs threads that can be kept to a core")
def test_no_step_is_faster_than_its_multiply_adds():
    """Two workers on one core put each other aside: what one of them does while the other sleeps still takes its time."""
    program = ("import os, cnnext as cx, numpy as np; from cnnext.machine import peak_gflops\n"
               "peak = peak_gflops(runs=20)\n"
               "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
               "net = cx.Sequential([cx.Conv2D(64, 3), cx.Conv2D(64, 3)], input_shape=(40, 40, 64), exact=True)\n"
               "steps = net.plan(1).profile(n_threads=2, runs=300).steps\n"
               "print(min(s.seconds / (2e-9 * s.macs / peak) for s in steps))")
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert float(done.stdout) > 0.4     # of the time on one core: two of them could not halve it further
