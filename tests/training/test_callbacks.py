"""Callbacks: when they are called, what they do, and that they behave the same in a training that is resumed."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

import cnnext as cx


def data(n=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)


def net(rate=0.1):
    cx.set_random_seed(0)
    made = cx.Sequential([cx.Dense(3)], input_shape=(6,))
    made.compile(cx.SGD(rate), metrics=["accuracy"])
    return made


class Recorder(cx.Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self):
        self.calls.append("begin")

    def on_train_end(self):
        self.calls.append("end")

    def on_epoch_end(self, epoch, logs):
        self.calls.append((epoch, dict(logs)))

    def on_batch_end(self, batch, logs):
        self.calls.append((batch, sorted(logs)))


def told(callback, values, rate=0.1):
    """Let a callback see these values of "loss", an epoch each; returns the learning rate after each."""
    callback.model = net(rate)
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values, start=1):
        callback.on_epoch_end(epoch, {"loss": value, "accuracy": value})
        rates.append(callback.model.optimizer.learning_rate)
    return rates


def test_calls_come_in_order():
    x, y = data()
    recorder = Recorder()
    history = net().fit(x, y, batch_size=16, epochs=2, validation_data=(x, y), callbacks=[recorder], verbose=0).history
    batches = [(i, ["accuracy", "loss"]) for i in (1, 2, 3)]
    epochs = [(i + 1, {name: values[i] for name, values in history.items()}) for i in range(2)]
    assert recorder.calls == ["begin", *batches, epochs[0], *batches, epochs[1], "end"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_the_end_is_told_whatever_ends_the_training(error):
    class Raising(cx.Callback):
        def on_batch_end(self, batch, logs):
            raise error

    recorder = Recorder()
    with pytest.raises(error):
        net().fit(*data(), callbacks=[recorder, Raising()], verbose=0)
    assert recorder.calls == ["begin", (1, ["accuracy", "loss"]), "end"]


def test_a_callback_may_stop_and_change_the_rate():
    class Own(cx.Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.optimizer.learning_rate /= 2
            self.model.stop_training = epoch == 3

    made = net()
    assert made.fit(*data(), epochs=9, callbacks=[Own()], verbose=0).epochs == [1, 2, 3]
    assert made.optimizer.learning_rate == 0.1 / 8
    assert made.fit(*data(), epochs=2, verbose=0).epochs == [1, 2]


@pytest.mark.parametrize(("values", "options", "stopped", "best"), [
    ([5, 4, 3, 3, 2], {}, 4, 3),
    ([5, 4, 4, 3, 4, 4, 4], {"patience": 3}, 7, 4),
    ([5, 4, 3.95, 3.9, 3.8], {"min_delta": 0.1, "patience": 2}, 4, 2),
    ([5, 4, 3, 2, 1], {}, 0, 5),
    ([1, 2, 2], {"mode": "max"}, 3, 2),
    ([1, 2, 2], {"monitor": "accuracy"}, 3, 2),
    ([np.inf, 1, 2], {}, 1, 2),
])
def test_early_stopping(values, options, stopped, best):
    callback = cx.EarlyStopping(**{"monitor": "loss", **options})
    told(callback, values if not stopped else values[:stopped])
    assert (callback.stopped_epoch, callback.model.stop_training) == (stopped, bool(stopped))
    if stopped != 1:
        assert callback.best_epoch == best


def test_early_stopping_restores_the_best_weights_after_ctrl_c_too():
    x, y = data()
    seen = []

    class Watch(cx.Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append((logs["val_loss"], self.model.get_weights()))
            self.model.optimizer.learning_rate = 0.1 if epoch < 3 else 20
            if epoch == 5:
                raise KeyboardInterrupt

    made = net()
    stopping = cx.EarlyStopping(patience=50, restore_best_weights=True)
    with pytest.raises(KeyboardInterrupt):
        made.fit(x, y, epochs=9, validation_data=(x, y), callbacks=[stopping, Watch()], verbose=0)
    losses = [loss for loss, _ in seen]
    assert losses.index(min(losses)) == 2 == stopping.best_epoch - 1
    assert all(np.array_equal(a, b) for a, b in zip(made.get_weights(), seen[2][1], strict=True))
    assert made.evaluate(x, y)["loss"] == losses[2]


def test_a_callback_is_new_in_each_fit():
    stopping = cx.EarlyStopping("loss", patience=2, restore_best_weights=True)
    for _ in range(2):
        assert len(net().fit(*data(), epochs=4, callbacks=[stopping], verbose=0).epochs) == 4
        assert (stopping.best_epoch, stopping.wait) == (4, 0)


@pytest.mark.parametrize(("values", "options", "rates"), [
    ([5, 4, 4, 3, 4, 4], {"patience": 1}, [1, 1, .5, .5, .25, .125]),
    ([5, 5, 5, 5, 5, 5], {"patience": 2}, [1, 1, .5, .5, .25, .25]),
    ([5, 5, 5, 5, 5, 5], {"patience": 1, "cooldown": 2}, [1, .5, .5, .5, .25, .25]),
    ([5, 5, 5, 5], {"patience": 1, "min_lr": 0.4}, [1, .5, .4, .4]),
    ([5, 5], {"patience": 1, "min_lr": 3}, [1, 1]),
    ([5, 4.9, 4.8], {"patience": 1, "min_delta": 0.15}, [1, .5, .5]),
])
def test_reduce_on_plateau(values, options, rates):
    assert told(cx.ReduceLROnPlateau("loss", factor=0.5, **options), values, rate=1) == rates


def test_model_checkpoint_of_the_best(tmp_path):
    path = tmp_path / "best.safetensors"
    callback = cx.ModelCheckpoint(path, "loss", save_best_only=True)
    callback.model = net()
    for epoch, loss in enumerate([3, 2, 4], start=1):
        callback.model.set_weights([np.full(p.shape, epoch) for p in callback.model.parameters])
        callback.on_epoch_end(epoch, {"loss": loss})
    assert cx.load(path).get_weights()[0][0, 0] == 2


def test_model_checkpoint_of_every_epoch(tmp_path):
    made = net()
    history = made.fit(*data(), epochs=2, callbacks=[cx.ModelCheckpoint(tmp_path / "{epoch:02d}-{loss:.3f}.safetensors")],
                       verbose=0).history
    names = [f"{epoch:02d}-{loss:.3f}.safetensors" for epoch, loss in enumerate(history["loss"], start=1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert np.array_equal(cx.load(tmp_path / names[1]).get_weights()[0], made.get_weights()[0])


def read_csv(path):
    with open(path, newline="") as file:
        return [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]


def read_json(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("logger", "read"), [(cx.CSVLogger, read_csv), (cx.JSONLinesLogger, read_json)])
def test_logs_continue_in_a_resumed_training(tmp_path, logger, read):
    x, y = data()
    log, run = tmp_path / "log", tmp_path / "run"
    log.write_text("an older log\n")
    net().fit(x, y, epochs=3, callbacks=[logger(log)], checkpoint=run, verbose=0)
    made = net()
    (run / "checkpoint.safetensors").rename(tmp_path / "checkpoint.safetensors")
    made.fit(x, y, epochs=4, callbacks=[logger(log)], verbose=0)
    history = made.fit(x, y, epochs=5, callbacks=[logger(log)], resume=tmp_path, verbose=0)
    rows = read(log)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert {row["learning_rate"] for row in rows} == {0.1}
    for name, values in history.history.items():
        assert [row[name] for row in rows] == values


def read_events(folder):
    """(file, tag, epoch) to value, and the steps from which on files hide what others hold of them.

    A file is a chain of records: length (8 bytes), checksum (4), an Event of protobuf, checksum (4).
    """
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found, hidden = {}, []
    for number, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        content, place = path.read_bytes(), 0
        while place < len(content):
            length = int.from_bytes(content[place : place + 8], "little")
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
                hidden.append(event.step)
            found |= {(number, value.tag, event.step): value.simple_value for value in event.summary.value}
    return found, hidden


def test_tensorboard_logger(tmp_path):
    pytest.importorskip("tensorboardX")
    x, y = data()
    made, logger = net(), cx.TensorBoardLogger(tmp_path / "logs")
    settings = {"validation_data": (x, y), "callbacks": [logger], "verbose": 0}
    made.fit(x, y, epochs=2, checkpoint=tmp_path / "run", **settings)
    history = made.fit(x, y, epochs=3, resume=tmp_path / "run", **settings).history
    found, hidden = read_events(tmp_path / "logs")
    expected = {}
    for epoch in (1, 2, 3):
        file = 0 if epoch < 3 else 1
        expected[file, "learning_rate", epoch] = pytest.approx(0.1)
        for name in ("loss", "accuracy"):
            expected[file, f"{name}/training", epoch] = pytest.approx(history[name][epoch - 1])
            expected[file, f"{name}/validation", epoch] = pytest.approx(history[f"val_{name}"][epoch - 1])
    assert found == expected
    assert hidden == [1, 3]


def test_tensorboard_logger_without_a_writer(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="a writer of its files. Install it: pip install tensorboardX"):
        cx.TensorBoardLogger()


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: cx.EarlyStopping(mode="up"), ValueError, "EarlyStopping: `mode` must be 'auto', 'min' or 'max'"),
    (lambda: cx.EarlyStopping(patience=-1), ValueError, "EarlyStopping: `patience` must be at least 0"),
    (lambda: cx.ReduceLROnPlateau(factor=1), ValueError, "ReduceLROnPlateau: `factor` must be less than 1"),
    (lambda: net().fit(*data(), callbacks=cx.EarlyStopping()), TypeError, "fit: `callbacks` must be a list of callbacks"),
    (lambda: net().fit(*data(), callbacks=[print]), TypeError, r"fit: `callbacks\[0\]` must be a cnnext.Callback"),
    (lambda: net().fit(*data(), callbacks=[cx.EarlyStopping()], verbose=0), ValueError,
     "EarlyStopping: unknown value 'val_loss'. Did you mean 'loss'"),
])
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
