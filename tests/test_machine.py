"""What the machine can do at most: the rates are plausible, and those of several cores add up."""

from __future__ import annotations

import pytest

from cnnext import machine
from cnnext._native import executor


@pytest.mark.parametrize("level", executor.levels())
def test_peak_of_each_level(level):
    assert 0.1 < machine.peak_gflops(level, runs=2) < 10_000


def test_a_level_that_is_not_there():
    with pytest.raises(ValueError, match="`level` must be one of"):
        machine.peak_gflops("mmx")


def test_the_rates_of_several_cores_are_added(monkeypatch):
    monkeypatch.setattr(machine.executor, "fma_loop", lambda level, turns: 5e9)
    assert machine.peak_gflops(n_threads=3, runs=1) == pytest.approx(15)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_bytes", [1 << 20, machine.CACHE_BYTES])
def test_copy(n_threads, n_bytes):
    assert 0.1 < machine.copy_bandwidth(n_threads, runs=2, n_bytes=n_bytes) < 10_000


def test_ceilings(monkeypatch):
    monkeypatch.setattr(machine, "peak_gflops", lambda level, n_threads: 3.0 * n_threads)
    monkeypatch.setattr(machine, "copy_bandwidth", lambda n_threads, n_bytes=machine.MEMORY_BYTES: n_bytes / n_threads)
    assert machine.ceilings("avx2", 2) == machine.Ceilings(6.0, machine.MEMORY_BYTES / 2, machine.CACHE_BYTES)
