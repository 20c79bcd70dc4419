"""Data sources: the same bits for any number of workers, bounded memory, errors that name the example, no thread left."""

from __future__ import annotations

import os
import re
import threading
import time

import numpy as np
import pytest

import cnnext as cx
from cnnext.data import Arrays, ColorJitter, CutMix, Cutout, DataSource, Mixup, RandomHorizontalFlip, RandomShift
from cnnext.data.source import _Streams

AUGMENT = [RandomHorizontalFlip(), RandomShift(2), ColorJitter(0.2), Cutout(2)]


def arrays(n: int = 50, **options) -> Arrays:
    random = np.random.default_rng(0)
    return Arrays(random.random((n, 6, 5, 3), np.float32), random.integers(0, 4, n), **options)


def workers_alive() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("cnnext-data")]


def net(classes: int = 4) -> cx.Sequential:
    cx.set_random_seed(3)
    model = cx.Sequential([cx.Conv2D(4, 3, activation="relu"), cx.Flatten(), cx.Dense(classes)], input_shape=(6, 5, 3))
    model.compile(cx.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def weights(model: cx.Sequential) -> list[np.ndarray]:
    return [p.data.copy() for p in model.parameters]


class Counting(DataSource):
    """Examples that hold their number; it remembers what was read, and may fail."""

    def __init__(self, n: int, bad: tuple[int, ...] = (), **options):
        super().__init__((6, 5, 3), np.arange(n) % 4, **options)
        self.bad, self.seen = bad, []

    def read(self, item: int) -> np.ndarray:
        self.seen.append(item)
        if item in self.bad:
            raise ValueError(f"{self.name(item)} is bad")
        return np.full(self.shape, item / 64, np.float32)

    def name(self, item: int) -> str:
        return f"number {item}"


@pytest.mark.parametrize("batch_size", [1, 7, 25, 50, 64])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_hold_the_examples_in_order(batch_size, shuffled):
    data = arrays()
    order = np.random.default_rng(1).permutation(50) if shuffled else None
    batches = list(data.batches(batch_size, order))
    assert [len(y) for _, y in batches] == [min(batch_size, 50 - s) for s in range(0, 50, batch_size)]
    assert all(len(x) == 1 and x[0].dtype == np.float32 and x[0].flags.c_contiguous for x, _ in batches)
    rows = slice(None) if order is None else order
    np.testing.assert_array_equal(np.concatenate([x[0] for x, _ in batches]), data._x[rows])
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), data.targets[rows])


def test_bits_depend_on_the_seed_and_the_epoch_alone():
    def epochs(seed, **options):
        cx.set_random_seed(seed)
        data = arrays(augment=AUGMENT, **options)
        return [np.concatenate([x[0] for x, _ in data.batches(size, seed=data.draw_seed())]) for size in (7, 50)]

    first, second = epochs(1, workers=1)
    for options in ({"workers": 2}, {"workers": 5, "prefetch": 1}, {"workers": 3, "prefetch": 9}):
        for expected, found in zip((first, second), epochs(1, **options)):
            np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epochs(2)[0])


def test_an_example_has_its_own_draws_wherever_it_stands():
    def made(order):
        cx.set_random_seed(1)
        data = arrays(augment=AUGMENT)
        (x,), _ = next(data.batches(50, order, data.draw_seed()))
        return x

    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(made(order), made(None)[order])


def test_nothing_is_augmented_outside_training():
    data = arrays(augment=AUGMENT)
    np.testing.assert_array_equal(np.concatenate([x[0] for x, _ in data.batches(8)]), data._x)


def test_a_training_is_that_on_arrays():
    data = arrays()
    pair = data._x, data.targets
    by_source = net()
    found = by_source.fit(data, batch_size=8, epochs=3, validation_data=data, verbose=0)
    by_arrays = net()  # which seeds again
    expected = by_arrays.fit(*pair, batch_size=8, epochs=3, validation_data=pair, verbose=0)
    assert found.history == expected.history
    for a, b in zip(weights(by_source), weights(by_arrays)):
        np.testing.assert_array_equal(a, b)
    assert by_source.evaluate(data, batch_size=8) == by_arrays.evaluate(*pair, batch_size=8)


def test_an_augmented_training_has_the_same_bits_for_any_workers():
    trained = []
    for workers in (1, 4):
        model = net()
        model.fit(arrays(augment=AUGMENT, workers=workers), batch_size=8, epochs=2, verbose=0, validation_split=0.2)
        trained.append(weights(model))
    plain = net()
    plain.fit(arrays(), batch_size=8, epochs=2, verbose=0, validation_split=0.2)
    for a, b, c in zip(*trained, weights(plain)):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_split_keeps_examples_and_targets_together():
    data = arrays()
    before, after = data.split(0.3)
    again, last = before.split(0.2)
    assert [len(part) for part in (before, after, again, last)] == [35, 15, 28, 7]
    for part, rows in ((after, slice(35, 50)), (last, slice(28, 35))):
        (x,), y = next(part.batches(50))
        np.testing.assert_array_equal(x, data._x[rows])
        np.testing.assert_array_equal(y, data.targets[rows])


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (4, 3)])
def test_no_more_is_read_than_prefetch_allows(workers, prefetch):
    data = Counting(64, workers=workers, prefetch=prefetch)
    batches = data.batches(4)
    for taken in range(1, 5):
        next(batches)
        assert len(data.seen) <= 4 * (taken + prefetch)
    time.sleep(0.05)  # workers that ran ahead without a bound would show
    assert len(data.seen) <= 4 * (4 + prefetch)
    batches.close()


def test_an_error_is_that_of_the_first_bad_example_and_names_it():
    for workers in (1, 4):
        with pytest.raises(ValueError, match="^number 21 is bad$"):
            net().fit(Counting(64, bad=(21, 22, 40), workers=workers), batch_size=32, shuffle=False, verbose=0)
    assert not workers_alive()


@pytest.mark.parametrize("result", [np.zeros((6, 5, 1), np.float32), np.zeros((5, 6, 3), np.float32)])
def test_an_augmentation_that_changes_the_shape(result):
    data = arrays(augment=[lambda image, random: result])
    with pytest.raises(ValueError, match=r"^x\[0\]: `<function .*` must give an array of shape \(6, 5, 3\)"):
        list(data.batches(8, seed=data.draw_seed()))


def test_an_augmentation_that_fails():
    def dark(image, random):
        raise ZeroDivisionError("nothing to see")

    with pytest.raises(RuntimeError, match=r"^x\[0\]: .*dark.*must run without an error.*nothing to see") as caught:
        net().fit(arrays(augment=[dark]), shuffle=False, verbose=0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) and not workers_alive()


def test_workers_end_when_the_iterator_is_closed():
    batches = arrays(workers=3).batches(4)
    next(batches)
    assert workers_alive()
    batches.close()
    assert not workers_alive()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_workers_end_when_training_is_interrupted(error):
    model = net()
    step = model._compiled().step

    def interrupted(x, y):
        if interrupted.steps == 2:
            raise error
        interrupted.steps += 1
        return step(x, y)

    interrupted.steps = 0
    model._compiled().step = interrupted
    with pytest.raises(error) as caught:
        model.fit(arrays(), batch_size=4, verbose=0)
    assert caught.tb and not workers_alive()  # although the traceback keeps the frame, and so the iterator, alive


def test_fork_in_the_middle_of_an_epoch():
    data = arrays(augment=AUGMENT)
    batches = data.batches(4, seed=data.draw_seed())
    next(batches)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                next(batches)
            except RuntimeError as problem:
                status = 2 if "process that began it" not in str(problem) else 3
            if status == 3 and len(list(data.batches(8, seed=data.draw_seed()))) == 7:
                status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    ended, code = os.waitpid(pid, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
        ended, code = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert ended and code == 0
    assert sum(len(y) for _, y in batches) == 46  # the parent goes on


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda: Arrays(np.zeros((3, 2, 2, 1)), [0, 1]), ValueError, "Arrays: `y` must hold one target for each of the 3"),
    (lambda: Arrays(np.zeros((0, 2, 2, 1)), []), ValueError, "Arrays: `x` must hold at least one example"),
    (lambda: Arrays(np.zeros(3), [0, 1, 2]), ValueError, "Arrays: `x` must have shape (examples, ...)"),
    (lambda: Arrays(["a"], [0]), TypeError, "Arrays: `x` must hold real numbers"),
    (lambda: Arrays(np.zeros((3, 4)), [0, 1, 2], augment=[Cutout(1)]), ValueError, "Arrays: `augment` must be empty"),
    (lambda: arrays(augment=[Cutout]), TypeError, "Arrays: `augment[0]` must be an augmentation"),
    (lambda: arrays(augment=["flip"]), TypeError, "Arrays: `augment[0]` must be an augmentation"),
    (lambda: arrays(workers=0), ValueError, "Arrays: `workers` must be at least 1"),
    (lambda: arrays(prefetch=0), ValueError, "Arrays: `prefetch` must be at least 1"),
    (lambda: net().fit(arrays(), np.zeros(50, int)), ValueError, "fit: `y` must be left out"),
    (lambda: net().fit(Counting(0)), ValueError, "fit: `x` must hold at least one example"),
    (lambda: net().evaluate(Arrays(np.zeros((4, 5, 6, 3)), np.zeros(4, int))), ValueError,
     "evaluate: `x` must have shape (N, 6, 5, 3). Received x='Arrays of shape (N, 5, 6, 3)'"),
    (lambda: net(classes=3).fit(Counting(8)), ValueError,
     "fit: `x.targets[3]` must be a label in [0, 3). Received x.targets[3]=3. It is the target of number 3."),
    (lambda: net().fit(arrays(), validation_data=Counting(0), verbose=0), ValueError, "fit: `validation_data x` must hold"),
    (lambda: net().fit(np.zeros((4, 6, 5, 3))), TypeError, "fit: `y` must hold real numbers; it is missing"),
])
def test_invalid(make, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        make()


def test_streams_are_those_of_philox():
    streams, seed = _Streams(), 2**63 - 1
    for item in (0, 7, 2**40, 7):
        expected = np.random.Generator(np.random.Philox(key=np.array([seed, item], np.uint64)))
        found = streams.of(seed, item)
        np.testing.assert_array_equal(found.integers(0, 9, 5, np.int32), expected.integers(0, 9, 5, np.int32))
        np.testing.assert_array_equal(found.random(9), expected.random(9))


MIXTURES = [Mixup(0.4), CutMix()]


@pytest.mark.parametrize("mix", MIXTURES)
def test_mixed_batches_have_the_same_bits_for_any_workers(mix):
    def epoch(**options):
        cx.set_random_seed(4)
        data = arrays(augment=AUGMENT, mix=mix, **options)
        data = data.with_targets(data.targets, classes=4)
        batches = list(data.batches(20, np.arange(50)[::-1], data.draw_seed()))
        return [np.concatenate(parts) for parts in zip(*((x[0], y) for x, y in batches))]

    expected, rows = epoch(workers=1)
    assert rows.shape == (50, 4) and rows.dtype == np.float32 and ((0 < rows) & (rows < 1)).any()
    for options in ({"workers": 2}, {"workers": 7, "prefetch": 5}):
        found = epoch(**options)
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_array_equal(found[1], rows)


def test_examples_of_one_batch_are_mixed_after_their_own_draws():
    """A mixture that only looks sees the augmented batch, whole, once, and draws from a stream of its own."""
    seen = []

    def look(x, y, random):
        seen.append((x.copy(), y.copy(), random.random()))

    plain, looked = arrays(augment=AUGMENT), arrays(augment=AUGMENT, mix=look, workers=3)
    looked = looked.with_targets(looked.targets, classes=4)
    for (x, y), (same, rows) in zip(plain.batches(20, seed=5), looked.batches(20, seed=5), strict=True):
        np.testing.assert_array_equal(same[0], x[0])
        np.testing.assert_array_equal(rows, np.eye(4)[y])
    assert len(seen) == 3 and len({draw for *_, draw in seen}) == 3
    for (x, _, _), (wanted, _) in zip(sorted(seen, key=lambda s: -len(s[0])), plain.batches(20, seed=5)):
        assert x.shape == wanted[0].shape


def test_nothing_is_mixed_outside_training():
    data = arrays(mix=Mixup())
    [(x, y)] = data.batches(50)
    np.testing.assert_array_equal(x[0], data._x)
    assert y.dtype.kind == "i"
    model = net()
    assert model.evaluate(data) == model.evaluate(data._x, data.targets)


@pytest.mark.parametrize("mix", MIXTURES)
def test_labels_become_rows_for_sparse_cross_entropy(mix):
    def trained(loss, y):
        model = net()
        model.compile(cx.SGD(0.05), loss, metrics=["accuracy", "f1"])
        history = model.fit(arrays(mix=mix).with_targets(y), batch_size=16, epochs=2, verbose=0,
                            validation_data=(arrays()._x, y))
        return model, history.history

    labels = arrays().targets
    sparse, values = trained(cx.SparseCategoricalCrossentropy(label_smoothing=0.1, class_weight={2: 3.0}), labels)
    rows, expected = trained(cx.CategoricalCrossentropy(label_smoothing=0.1, class_weight={2: 3.0}),
                             np.eye(4, dtype=np.float32)[labels])
    for a, b in zip(weights(sparse), weights(rows)):
        np.testing.assert_array_equal(a, b)
    assert values["loss"] == expected["loss"] and values["accuracy"] == expected["accuracy"]
    assert values["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-5)
    unmixed = net()
    unmixed.fit(arrays(), batch_size=16, epochs=2, verbose=0)
    assert not np.array_equal(weights(unmixed)[0], weights(sparse)[0])


def test_numbers_are_mixed_too():
    model = cx.Sequential([cx.Flatten(), cx.Dense(1)], input_shape=(6, 5, 3))
    model.compile("sgd", "mse")
    data = Arrays(arrays()._x, np.arange(50.0), mix=Mixup())
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


def test_a_value_that_is_not_finite_is_named_where_examples_are_mixed():
    data = arrays(mix=Mixup(5.0))
    data._x[17, 1, 2, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"It comes from the data: x\[17\] holds nan"):
        net().fit(data, batch_size=25, verbose=0)

    def spoil(x, y, random):
        x[3] = np.inf

    with pytest.raises(FloatingPointError, match=r"It comes from the data: the mixture with x\[3\] holds inf"):
        net().fit(arrays(mix=spoil), batch_size=25, shuffle=False, verbose=0)


def test_mixtures_that_cannot_be():
    def hinge():
        model = cx.Sequential([cx.Flatten(), cx.Dense(1)], input_shape=(6, 5, 3))
        model.compile("sgd", "hinge")
        model.fit(Arrays(arrays()._x, np.arange(50) % 2, mix=Mixup()), verbose=0)

    def pixels():
        model = cx.Sequential([cx.Conv2D(3, 1)], input_shape=(6, 5, 3))
        model.compile("sgd")
        model.fit(Arrays(arrays()._x, np.zeros((50, 6, 5), int), mix=CutMix()), verbose=0)

    def fails(x, y, random):
        raise KeyError("no")

    for make, kind, words in (
        (hinge, ValueError, "fit: `x` must not mix its examples where the loss is Hinge()"),
        (pixels, ValueError, "fit: `x` must be mixed by Mixup, not CutMix, where an example has more than one row"),
        (lambda: arrays(mix=Mixup), TypeError, "Arrays: `mix` must be a mixture, such as Mixup(0.2)"),
        (lambda: Arrays(np.ones((5, 3)), np.arange(5), mix=CutMix()), ValueError, "`mix` must be another unless"),
        (lambda: list(arrays(mix=Mixup()).batches(9, seed=1)), ValueError, "`targets` must be numbers or rows"),
        (lambda: net().fit(arrays(mix=fails), shuffle=False, verbose=0), RuntimeError,
         "batch that begins with x[0]: `<function"),
    ):
        with pytest.raises(kind) as caught:
            make()
        assert words in str(caught.value)
    assert workers_alive() == []
