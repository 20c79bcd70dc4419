"""``tune=True``: what is chosen follows from times, measured once and remembered. The times of these tests are made up."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import cnnext as cx
from cnnext import tuning
from cnnext.isa import default_level
from cnnext.layers import _taps

F2, F4 = "winograd F(2x2,3x3)", "winograd F(4x4,3x3)"
FOUR_IS_BEST = {"direct": 3e-3, F4: 1e-3, F2: 2e-3}
SHAPE = (1, 16, 16, 32)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_taps, "ALGORITHMS", tuple(a for a in _taps.ALGORITHMS if a.name in FOUR_IS_BEST))
    return tmp_path / "cache"


class Measured:
    """Stands for ``cnnext.tuning.measure``: gives fixed seconds, and counts."""

    def __init__(self, monkeypatch, seconds):
        self.seconds, self.plans = seconds, []
        monkeypatch.setattr(tuning, "measure", self)

    def __call__(self, plans, n_threads):
        self.plans.append(plans)
        return {name: self.seconds[name] for name in plans}


def net(**options):
    cx.set_random_seed(0)
    return cx.Sequential([cx.Conv2D(32, 3, padding="same", name="conv")], input_shape=SHAPE[1:], **options)


def why(model, **options):
    return cx.InferenceSession(model, tune=True, **options).plan(SHAPE).steps[-1].why


@pytest.mark.parametrize("seconds, chosen, said", [
    (FOUR_IS_BEST, F4, f"tuned: direct 3.00x, {F2} 2.00x"),
    ({"direct": 3e-3, F4: 2e-3, F2: 1e-3}, F2, f"tuned: direct 3.00x, {F4} 2.00x"),
    ({"direct": 1e-3, F4: 2e-3, F2: 3e-3}, "direct", f"tuned: {F4} 2.00x, {F2} 3.00x"),
    ({"direct": 1e-3, F4: 0.98e-3, F2: 3e-3}, "direct", f"tuned: {F4} 0.98x, {F2} 3.00x"),    # not clearly faster
])
def test_the_fastest_is_chosen(monkeypatch, seconds, chosen, said):
    Measured(monkeypatch, seconds)
    shown = cx.InferenceSession(net(), tune=True).plan(SHAPE).explain()
    assert re.search(rf"{re.escape(chosen)}: .*; {re.escape(said)}$", shown, re.MULTILINE)


def test_each_shape_is_timed_once(monkeypatch, cache):
    measured = Measured(monkeypatch, FOUR_IS_BEST)
    first = why(net())
    [plans] = measured.plans
    assert set(plans) == set(FOUR_IS_BEST)
    [file] = cache.iterdir()
    assert default_level() in file.name and cx.__version__ in file.name and str(file) in cx.show_config(show=False)
    assert why(net()) == first and len(measured.plans) == 1
    cx.InferenceSession(net(), tune=True).plan((2, *SHAPE[1:]))
    assert len(measured.plans) == 2
    assert sorted(map(len, json.loads(file.read_bytes())["seconds"].values())) == [3, 3]


def test_what_is_timed_is_the_layer(monkeypatch):
    measured = Measured(monkeypatch, FOUR_IS_BEST)
    x = cx.Input(SHAPE[1:])
    y = cx.Conv2D(32, 3, padding="same")(x)
    z = cx.ReLU()(cx.Add()([x, cx.Conv2D(32, 3, padding="same")(y)]))
    steps = cx.InferenceSession(cx.Model(x, z), tune=True).plan(SHAPE).steps
    plans = [plans[F4] for plans in measured.plans]
    assert [s.kernel for plan in plans for s in plan.steps] == [s.kernel for s in steps]
    for timed, step in zip([s for plan in plans for s in plan.steps], steps, strict=True):
        assert (timed.params, timed.tiles, timed.macs) == (step.params, step.tiles, step.macs)
        assert [(v.shape, v.strides) for v in (*timed.src, *timed.dst)] == [
            (v.shape, v.strides) for v in (*step.src, *step.dst)]


def test_the_bits_follow_from_the_file(monkeypatch):
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    model = net()
    plain = model.predict(x)
    Measured(monkeypatch, {"direct": 3e-3, F4: 2e-3, F2: 1e-3})
    model.tune, model.num_threads = True, 1
    tuned = model.predict(x)
    assert not np.array_equal(tuned, plain)     # the model of the costs chooses F(4x4)
    Measured(monkeypatch, FOUR_IS_BEST)
    for threads in (1, 2, 3):
        again = cx.InferenceSession(model, num_threads=threads)
        assert np.array_equal(again.run(None, {again.get_inputs()[0].name: x})[0], tuned)
    model.tune = False
    assert np.array_equal(model.predict(x), plain)


def test_exact_leaves_nothing_to_time(monkeypatch):
    measured = Measured(monkeypatch, {"direct": 1e-3})
    assert "tuned" not in why(net(), exact=True)
    assert all(set(plans).isdisjoint({F2, F4}) for plans in measured.plans)


def test_training(monkeypatch):
    measured = Measured(monkeypatch, FOUR_IS_BEST)
    model = cx.Sequential([cx.Conv2D(32, 3, padding="same"), cx.Flatten(), cx.Dense(3)], input_shape=SHAPE[1:], tune=True)
    model.compile()
    rng = np.random.default_rng(0)
    history = model.fit(rng.standard_normal((8, *SHAPE[1:]), np.float32), rng.integers(0, 3, 8), epochs=1, verbose=0)
    assert measured.plans and np.isfinite(history.history["loss"]).all()


class Other(_taps.Direct):
    """A second algorithm for all sums, so that each is timed."""

    name = "other"


@pytest.mark.parametrize("layer, shape", [
    (lambda: cx.Conv2D(6, (2, 3), strides=(2, 1), dilation=(1, 2), groups=2), (9, 8, 4)),
    (lambda: cx.Conv1D(5, 3, padding=(2, 0), activation="gelu"), (11, 3)),
    (lambda: cx.Conv2DTranspose(3, 3, strides=2), (5, 4, 7)),
    (lambda: cx.Conv2DTranspose(2, 2, strides=2, use_bias=False), (4, 4, 20)),
    (lambda: cx.Dense(7), (30,)),
])
def test_every_kind_of_sum_is_timed(monkeypatch, cache, layer, shape):
    monkeypatch.setattr(_taps, "ALGORITHMS", (_taps.Direct(), Other()))
    monkeypatch.setattr(tuning, "MOST_ROUNDS", 1)
    model = cx.Sequential([layer(), cx.Flatten(), cx.Dense(3)], input_shape=shape)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *shape), np.float32)
    expected = model.predict(x)
    model.tune = True
    assert np.array_equal(model.predict(x), expected)
    model.compile()
    model.fit(x, rng.integers(0, 3, 2), epochs=1, verbose=0)
    [file] = cache.iterdir()
    shapes = json.loads(file.read_bytes())["seconds"]
    assert len(shapes) >= 4 and all(set(times) == {"direct", "other"} for times in shapes.values())


def test_it_is_pickled():
    assert pickle.loads(pickle.dumps(net(tune=True))).tune
    assert not pickle.loads(pickle.dumps(net())).tune
    session = pickle.loads(pickle.dumps(cx.InferenceSession(net(), tune=True, exact=True)))
    assert session.__getstate__()["tune"] and session.__getstate__()["exact"]


@pytest.mark.parametrize("content", [
    b"", b"no json", b"[]", b'{"seconds": 3}', b'{"seconds": {"a": 3}}', b'{"seconds": {"a": {"direct": "1"}}}',
    b'{"seconds": {"a": {"direct": -1.0}}}', b'{"seconds": {"a": {"direct": NaN}}}', b"[" * 100_000, b"\xff\xfe",
    b" " * (tuning.MOST_BYTES + 1),
])
def test_a_damaged_file_is_replaced(monkeypatch, cache, content):
    Measured(monkeypatch, FOUR_IS_BEST)
    why(net())
    [file] = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=f"{re.escape(str(file))}: not used, and written anew: "):
        assert "tuned: " in why(net())
    assert file.read_bytes() == good


def test_an_algorithm_that_the_file_does_not_know_is_timed(monkeypatch, cache):
    measured = Measured(monkeypatch, FOUR_IS_BEST)
    why(net())
    [file] = cache.iterdir()
    document = json.loads(file.read_bytes())
    for times in document["seconds"].values():
        del times[F2]
    file.write_text(json.dumps(document))
    assert f"{F2} 2.00x" in why(net()) and len(measured.plans) == 2


def test_the_file_is_bounded_and_keeps_what_is_newest(monkeypatch, cache):
    monkeypatch.setattr(tuning, "MOST_SHAPES", 2)
    Measured(monkeypatch, FOUR_IS_BEST)
    for batch in (1, 2, 3):
        cx.InferenceSession(net(), tune=True).plan((batch, *SHAPE[1:]))
    [file] = cache.iterdir()
    assert [shape.split()[0] for shape in json.loads(file.read_bytes())["seconds"]] == ["2", "3"]


def test_times_of_other_processes_are_kept(monkeypatch, cache):
    Measured(monkeypatch, FOUR_IS_BEST)
    ours, theirs = (tuning.Tuner(default_level(), 1) for _ in range(2))
    ours.times("our shape", lambda: FOUR_IS_BEST, [F2])
    theirs.times("their shape", lambda: FOUR_IS_BEST, [F2])
    ours._new["both"], theirs._new["both"] = {F2: 2.0}, {F2: 1.0}
    theirs.save()
    ours.save()
    [file] = cache.iterdir()
    found = json.loads(file.read_bytes())["seconds"]
    assert set(found) == {"our shape", "their shape", "both"} and found["both"] == {F2: 1.0}


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    Measured(monkeypatch, FOUR_IS_BEST)
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path / "file" / "folder"))
    with pytest.warns(RuntimeWarning, match="measured times are not remembered .* CNNEXT_CACHE names another folder"):
        assert "tuned: " in why(net())


def test_no_file(monkeypatch, tmp_path):
    measured = Measured(monkeypatch, FOUR_IS_BEST)
    monkeypatch.setenv("CNNEXT_CACHE", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert why(net()) == why(net())
    assert len(measured.plans) == 2 and not list(tmp_path.iterdir())
    assert "tune=True: nowhere" in cx.show_config(show=False)


@pytest.mark.parametrize("given, home, folder", [
    ("/xdg", "/home/someone", "/xdg/cnnext"), ("", "/home/someone", "/home/someone/.cache/cnnext"),
    ("relative", "/home/someone", "/home/someone/.cache/cnnext"),
])
def test_the_users_cache_folder(monkeypatch, given, home, folder):
    monkeypatch.delenv("CNNEXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", home)
    assert tuning.cache_folder() == Path(folder)


def test_each_processor_has_a_file_of_its_own():
    names = {tuning.file_name(cpu, level) for cpu in ("A/B 9", "A B 9", "../../x") for level in ("avx2", "avx512")}
    assert len(names) == 6 and not any("/" in name or name.startswith(".") for name in names)


def test_real_times(cache):
    """Nothing is made up here: whatever wins, the result is right."""
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    model = net()
    exact = cx.InferenceSession(model, exact=True)
    tuned = cx.InferenceSession(model, tune=True)
    [expected], [result] = (s.run(None, {s.get_inputs()[0].name: x}) for s in (exact, tuned))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    [file] = cache.iterdir()
    [times] = json.loads(file.read_bytes())["seconds"].values()
    assert len(times) >= 2 and all(t > 0 for t in times.values())
