"""Threads: how many, the same bits for any number, forks, idle workers, and the GIL."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import threadpoolctl

import cnnext as cx
from cnnext import threads
from cnnext._native import executor
from tests.helpers import branched_net, images

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def wide_net(n_layers=2, **arguments):
    """Enough work for all workers."""
    layers = [cx.Conv2D(32, 3, padding="same", activation="relu") for _ in range(n_layers)]
    return cx.Sequential(layers, input_shape=(24, 24, 32), **arguments)


def test_any_number_of_threads_gives_the_same_bits():
    net = wide_net(num_threads=1)
    x = images(3, 24, 24, 32)
    expected = net.predict(x)
    assert net.plan(3).parallel
    for n in (2, 3, 4, 7):
        net.num_threads = n
        for _ in range(3):
            np.testing.assert_array_equal(net.predict(x), expected)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, float("nan"), [1]])
def test_bad_numbers_of_threads(value):
    with pytest.raises(ValueError, match=r"`num_threads` must be a whole number of at least 1, or None"):
        branched_net(num_threads=value)
    with pytest.raises(ValueError, match=r"`num_threads` must be"):
        branched_net().num_threads = value
    with pytest.raises(ValueError, match=r"`num_threads` must be"):
        cx.InferenceSession(branched_net(), num_threads=value)


def run_python(code, timeout=60, **environment):
    """What a program prints, run in an interpreter of its own."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), **environment}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
                          timeout=timeout, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_default_is_modest():
    available = threads.available_threads()
    assert 1 <= available <= len(os.sched_getaffinity(0))
    assert branched_net().num_threads == available
    code = "import cnnext as cx; print(cx.Sequential([cx.Dense(2)], input_shape=(3,)).num_threads)"
    assert run_python(code, OMP_NUM_THREADS="1") == "1"
    assert run_python(f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n{code}") == "1"


@pytest.mark.parametrize(("file", "text", "expected"), [
    ("cpu.max", "150000 100000\n", 1.5), ("cpu.max", "max 100000\n", None), ("cpu.max", "nonsense", None)])
def test_the_containers_quota_is_read(monkeypatch, file, text, expected):
    def read_text(path, *_, **__):
        if path.name != file:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    assert threads._cgroup_quota() == expected


@pytest.mark.skipif(not executor.OPENMP, reason="built without OpenMP")
def test_threadpoolctl_limits_runs():
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert threads.limited(4) == 1
    assert threads.limited(4) == 4


# Forks


def _child(net, x, queue):
    queue.put(net.predict(x))


def in_forked_child(net, x):
    """What the network predicts in a child; fails if the child hangs."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(net, x, queue))
    child.start()
    try:
        result = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        return result
    finally:
        child.kill()


@needs_fork
@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_a_forked_child_runs(n_threads):
    net = wide_net(num_threads=n_threads)
    x = images(2, 24, 24, 32)
    expected = net.predict(x)
    np.testing.assert_array_equal(in_forked_child(net, x), expected)
    np.testing.assert_array_equal(net.predict(x), expected)


@needs_fork
def test_a_lock_that_another_thread_holds_does_not_stop_the_child():
    net = wide_net()
    x = images(2, 24, 24, 32)
    expected = net.predict(x)
    with net.plan(2)._lock, net._runner._lock:
        child = in_forked_child(net, x)
    np.testing.assert_array_equal(child, expected)


@needs_fork
def test_a_fork_while_other_threads_run():
    net = wide_net(num_threads=2)
    x = images(2, 24, 24, 32)
    expected = net.predict(x)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            net.predict(x)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(5):
            np.testing.assert_array_equal(in_forked_child(net, x), expected)
    finally:
        stop.set()
        worker.join(60)
    assert not worker.is_alive()


# Idle


def test_an_idle_process_that_ran_once_rests():
    used = run_python("""
        import resource, time
        import numpy as np
        import cnnext as cx
        net = cx.Sequential([cx.Conv2D(32, 3), cx.Conv2D(32, 3)], input_shape=(24, 24, 32), num_threads=2)
        net.predict(np.ones((4, 24, 24, 32), np.float32))
        time.sleep(0.1)
        def cpu():
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return usage.ru_utime + usage.ru_stime
        before = cpu()
        time.sleep(2)
        print(cpu() - before)
    """)
    assert float(used) < 0.03 * 2


# The GIL


def test_python_goes_on_while_a_plan_runs():
    net = wide_net(n_layers=12, num_threads=1)
    x = images(48, 24, 24, 32)
    net.predict(x[:48], batch_size=48)
    runs_during: list[int] = []
    ticks = 0
    stop = threading.Event()

    def count():
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        for _ in range(5):
            before = ticks
            net.predict(x, batch_size=48)
            runs_during.append(ticks - before)
    finally:
        stop.set()
        counter.join(60)
    # A run takes some 60 ms, time for some 90 ticks; with the GIL held there would be one or two.
    assert max(runs_during) >= 10
