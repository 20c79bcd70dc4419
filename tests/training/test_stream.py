"""Generators in place of arrays: the same bits as arrays, whatever gives the batches; errors that name the batch."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

import cnnext as cx
from tests.training.test_checkpoint import Stop, check_same, everything

BATCH = 16


def data(n=100):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 6, 6, 2)).astype(np.float32), rng.integers(0, 4, n)


def new_net():
    cx.set_random_seed(9)
    net = cx.Sequential([cx.Conv2D(5, 3, activation="relu"), cx.Dropout(0.3), cx.Flatten(), cx.Dense(4)],
                        input_shape=(6, 6, 2), num_threads=2)
    net.compile(cx.Adam(0.01), metrics=["accuracy", "f1"])
    return net


def once(n=100):
    """The batches of an epoch over the arrays, in their order."""
    x, y = data(n)
    for start in range(0, n, BATCH):
        yield x[start : start + BATCH], y[start : start + BATCH]


def endless():
    while True:
        yield from once()


def reused():
    """As `endless`, in one array that each batch overwrites."""
    x, y = np.empty((BATCH, 6, 6, 2), np.float32), np.empty(BATCH, np.int64)
    for images, labels in endless():
        x[: len(images)], y[: len(images)] = images, labels
        yield x[: len(images)], y[: len(images)]


class Again:
    """Can be iterated again and again."""

    def __iter__(self):
        return once()


class Indexed:
    """As a Sequence of Keras: a length, and batches by number."""

    def __len__(self):
        return 7

    def __getitem__(self, i):
        return list(list(once())[i])        # a list of two, as a loader of PyTorch gives it


SETTINGS = {"epochs": 3, "verbose": 0}


@pytest.fixture(scope="module")
def expected():
    net = new_net()
    history = net.fit(*data(), batch_size=BATCH, shuffle=False, validation_data=data(30), **SETTINGS)
    return history, everything(net)


@pytest.mark.parametrize(("make", "steps"), [(endless, 7), (reused, 7), (Again, None), (Again, 7), (Indexed, None)])
@pytest.mark.parametrize("validation", ["arrays", "generator", "iterable"])
def test_the_bits_of_arrays(make, steps, validation, expected):
    def forever():
        while True:
            x, y = data(30)
            yield x, y

    class Whole:
        def __iter__(self):
            yield data(30)

    given, validation_steps = {"arrays": (data(30), None), "generator": (forever(), 1),
                               "iterable": (Whole(), None)}[validation]
    net = new_net()
    history = net.fit(make(), steps_per_epoch=steps, validation_data=given, validation_steps=validation_steps, **SETTINGS)
    check_same(everything(net), expected[1])
    assert history.history["loss"] == expected[0].history["loss"] and history.history["f1"] == expected[0].history["f1"]
    assert history.history["val_f1"] == expected[0].history["val_f1"]
    assert history.history["val_loss"] == pytest.approx(expected[0].history["val_loss"], rel=1e-6)


def test_a_generator_that_ends_makes_one_epoch():
    net = new_net()
    assert len(net.fit(once(), verbose=0).history["loss"]) == 1
    generator = endless()
    net.fit(generator, steps_per_epoch=2, epochs=2, verbose=0)
    _, y = next(generator)              # it goes on after the four batches that were used
    np.testing.assert_array_equal(y, data()[1][4 * BATCH : 5 * BATCH])


@pytest.mark.parametrize(("epoch", "batch"), [(1, 3), (2, 1), (3, 7)])
def test_a_resumed_training_has_the_same_bits(tmp_path, epoch, batch, expected):
    first = new_net()
    with pytest.raises(KeyboardInterrupt):
        first.fit(Again(), callbacks=[Stop(epoch, batch)], checkpoint=tmp_path, checkpoint_every=1, **SETTINGS)
    second = new_net()
    cx.set_random_seed(12345)
    second.fit(Again(), resume=tmp_path, **SETTINGS)
    check_same(everything(second), expected[1])


def test_a_generator_goes_on_where_it_is_when_the_training_is_resumed(tmp_path, expected):
    generator, first = endless(), new_net()
    with pytest.raises(KeyboardInterrupt):
        first.fit(generator, steps_per_epoch=7, callbacks=[Stop(2, 3)], checkpoint=tmp_path, checkpoint_every=1, **SETTINGS)
    # the batch whose step the interruption left out of the checkpoint comes again
    given = [b for i, b in zip(range(7 + 3), endless(), strict=False)]
    second = new_net()

    def rest():
        yield given[-1]
        yield from generator

    second.fit(rest(), steps_per_epoch=7, resume=tmp_path, **SETTINGS)
    check_same(everything(second), expected[1])


def test_evaluate_and_predict():
    net = new_net()
    x, y = data()
    wanted = net.evaluate(x, y, batch_size=BATCH)
    assert net.evaluate(once()) == wanted == net.evaluate(endless(), steps=7) == net.evaluate(Again())
    wanted = net.predict(x, batch_size=BATCH)
    only = (images for images, _ in once())
    for given, steps in ((once(), None), (endless(), 7), (only, None), (Again(), None), (([a] for a, _ in once()), None)):
        np.testing.assert_array_equal(net.predict(given, steps=steps), wanted)
    assert net.predict(endless(), steps=2).shape == (2 * BATCH, 4)
    source = cx.data.Arrays(x, y, augment=[cx.data.RandomShift(3)])
    np.testing.assert_array_equal(net.predict(source, batch_size=BATCH), wanted)


def test_several_inputs():
    a, b = cx.Input((3,)), cx.Input((2,))
    net = cx.Model([a, b], cx.Dense(1)(cx.Concat()([a, b])))
    net.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = [rng.random((8, 3), np.float32), rng.random((8, 2), np.float32)], rng.random((8, 1), np.float32)
    assert net.evaluate(iter([(x, y)])) == net.evaluate(x, y)
    np.testing.assert_array_equal(net.predict(iter([x, (x, y)])), np.concatenate([net.predict(x)] * 2))


def bad(change, at=3):
    """As `once`, with one batch changed."""
    for i, batch in enumerate(once(), start=1):
        yield change(*batch) if i == at else batch


@pytest.mark.parametrize(("change", "error", "text"), [
    (lambda x, y: x, ValueError, "fit, epoch 1, batch 3: `batch` must be a pair (x, y). Received batch=float32 array"),
    (lambda x, y: (x, y, y), ValueError, "fit, epoch 1, batch 3: `batch` must be a pair (x, y). Received batch='tuple of 3"),
    (lambda x, y: (x, y[:-1]), ValueError, "fit, epoch 1, batch 3: `y` must hold one target for each of the 16 examples"),
    (lambda x, y: (x[:0], y[:0]), ValueError, "fit, epoch 1, batch 3: `x` must hold at least one example"),
    (lambda x, y: (x[..., :1], y), ValueError, "fit, epoch 1, batch 3: `x` must have shape (N, 6, 6, 2)"),
    (lambda x, y: (x, y + 4), ValueError, "fit, epoch 1, batch 3: `y[0]` must be a label in [0, 4)"),
    (lambda x, y: (x, y / 2), TypeError, "fit, epoch 1, batch 3: `y` must be whole numbers"),
    (lambda x, y: (x.astype(str), y), TypeError, "fit, epoch 1, batch 3: `x` must hold real numbers"),
])
def test_a_batch_that_is_none(change, error, text):
    with pytest.raises(error) as caught:
        new_net().fit(bad(change), verbose=0)
    assert text in str(caught.value)


@pytest.mark.parametrize(("arguments", "text"), [
    ({"epochs": 2}, "`steps_per_epoch` must be given where x is a generator and there are several epochs"),
    ({"steps_per_epoch": 5, "epochs": 2}, "fit, epoch 2: `x` must give 5 batches. Received x='2 batches'"),
    ({"steps_per_epoch": 0}, "`steps_per_epoch` must be at least 1"),
    ({"y": np.zeros(3)}, "`y` must be left out where x is a generator"),
    ({"validation_split": 0.5}, "`validation_split` must be 0 where x is a generator"),
    ({"steps_per_epoch": 2, "epochs": 3, "validation_data": once()},
     "`validation_steps` must be given where validation_data x is a generator and there are several epochs"),
    ({"validation_data": iter(())}, "fit: `validation_data x` must give a batch or more"),
    ({"validation_data": bad(lambda x, y: (x, y + 4))}, "fit, batch 3: `validation_data y[0]` must be a label in [0, 4)"),
    ({"validation_steps": 2}, "`validation_steps` must be None unless the data are a generator's"),
    ({"validation_data": data(), "validation_steps": 2}, "`validation_steps` must be None unless"),
])
def test_arguments(arguments, text):
    with pytest.raises(ValueError) as caught:
        new_net().fit(once(), verbose=0, **arguments)
    assert text in str(caught.value)


def test_steps_are_for_generators():
    net, (x, y) = new_net(), data()
    for call in (lambda: net.fit(x, y, steps_per_epoch=2), lambda: net.evaluate(x, y, steps=2),
                 lambda: net.predict(x, steps=2)):
        with pytest.raises(ValueError, match="must be None unless the data are a generator's"):
            call()
    with pytest.raises(ValueError, match="predict, batch 2: `x` must"):
        net.predict(iter([x, [x, x]]))
    with pytest.raises(ValueError, match="predict: `x` must give a batch or more"):
        net.predict(iter(()))


def test_a_value_that_is_not_finite_is_named():
    def spoil(x, y):
        x = x.copy()
        x[5, 1, 2, 0] = np.nan
        return x, y

    reference = new_net()
    reference.fit(bad(None, at=99), steps_per_epoch=2, verbose=0)
    net = new_net()
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 3.* It comes from the data: x\[5\] of batch 3 holds nan"):
        net.fit(bad(spoil), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(net.get_weights(), reference.get_weights(), strict=True))


def test_the_progress_bar_counts_batches(monkeypatch, tmp_path, capsys):
    bars = []

    class Bar:
        def __init__(self, total, desc, unit, leave, initial=0):
            self.total, self.unit, self.seen = total, unit, initial
            bars.append(self)

        def update(self, n):
            self.seen += n

        def set_postfix_str(self, text, refresh):
            pass

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    net = new_net()
    net.fit(endless(), steps_per_epoch=5)
    net.fit(once())
    with pytest.raises(KeyboardInterrupt):
        net.fit(Again(), callbacks=[Stop(1, 3)], checkpoint=tmp_path, checkpoint_every=2)
    net.fit(Again(), resume=tmp_path)
    assert [(bar.total, bar.seen) for bar in bars] == [(5, 5), (None, 7), (None, 3), (None, 7)]
    assert {bar.unit for bar in bars} == {" batches"}
    assert "images/s" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [3, 32, 40])
def test_an_update_that_overflows_is_found_in_batches_that_do_not_come_again(steps):
    """A finite loss with a gradient beyond float32, as in test_loop; the generator uses its arrays again."""
    def batches():
        x, y = np.empty((1, 2), np.float32), np.empty((1, 1), np.float32)
        for step in range(1, 50):
            x[...], y[...] = (1e30, 1e15) if step == steps else (1e-3, 1e-9)
            yield x, y

    def net():
        made = cx.Sequential([cx.Dense(1, use_bias=False, name="dense")], input_shape=(2,))
        made.set_weights([np.zeros((2, 1))])
        made.compile(cx.SGD(1e-6), "mse")
        return made

    trained, reference = net(), net()
    with pytest.raises(FloatingPointError, match=f"'dense/weights' held inf after step {steps}, whose loss was finite"):
        trained.fit(batches(), verbose=0)
    reference.fit(batches(), steps_per_epoch=steps - 1, verbose=0)
    np.testing.assert_array_equal(trained.get_weights()[0], reference.get_weights()[0])
