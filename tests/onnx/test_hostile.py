"""Damaged ONNX models, thousands of them: refused with an error that says where, or run; no crash, hang, or much memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from tests.onnx.small_models import MODELS

ROOT = Path(__file__).resolve().parents[2]
QUICK, MANY = 60, 4400      # cases of each model


def _worker(name: str, first: int, count: int) -> tuple[list[dict], str]:
    """The cases that a process went through, and how it ended: "" in order."""
    process = subprocess.run([sys.executable, "-m", "tests.onnx.hostile_worker", name, str(first), str(count)], cwd=ROOT,
                             env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    if process.returncode == 0:
        return [line for line in lines if "result" in line], ""
    end = signal.Signals(-process.returncode).name if process.returncode < 0 else process.stderr[-2000:]
    return lines, end


def survey(name: str, first: int, count: int) -> list[dict]:
    """All cases; one that ended its process is a failure, and the next process goes on behind it."""
    cases: list[dict] = []
    stop = first + count
    while first < stop:
        lines, end = _worker(name, first, stop - first)
        cases += [line for line in lines if "result" in line]
        if not end:
            return cases
        assert lines and "begin" in lines[-1], f"the worker ended outside of a case: {end}"
        first = lines[-1]["begin"] + 1
        cases.append({"seed": first - 1, "kind": "", "result": "failed", "text": f"the process ended: {end}",
                      "seconds": 0.0, "bytes": 0})
    return cases


def _show(name: str, cases: list[dict]) -> None:
    """The table that ``pytest -s`` prints."""
    print(f"\n{name}: {len(cases)} cases, {dict(Counter(c['result'] for c in cases))}; at most "
          f"{max(c['seconds'] for c in cases):.2f} s, {max(c['bytes'] for c in cases) / 2**20:.1f} MB")


def _check(name: str, cases: list[dict]) -> None:
    _show(name, cases)
    failed = [f"seed {c['seed']} ({c['kind']}): {c['text']}" for c in cases if c["result"] == "failed"]
    assert not failed, f"{name}, {len(failed)} cases:\n" + "\n".join(failed[:20])
    kinds = {c["result"] for c in cases}
    assert kinds >= {"refused", "loaded and run"}, kinds    # else the cases show nothing
    unnamed = [c for c in cases if c["result"] == "refused" and not c["text"].startswith(("ONNX model: ", "model file"))]
    assert not unnamed, unnamed[:5]


@pytest.mark.parametrize("name", MODELS)
def test_a_few_hundred_damaged_models(name: str):
    _check(name, survey(name, 0, QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_twenty_thousand_damaged_models(name: str):
    half = MANY // 2
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda first: survey(name, first, half), (1000, 1000 + half))
        _check(name, [c for part in parts for c in part])
