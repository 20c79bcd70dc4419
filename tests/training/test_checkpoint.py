"""Checkpoints: a training that goes on has the bits of one that was never interrupted; what is damaged changes nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import cnnext as cx
from cnnext import modelfile
from cnnext.graph.plan import Plan
from cnnext.training.checkpoint import FILE_NAME, Checkpoint
from cnnext.training.initializers import generator

OPTIMIZERS = {
    "adam": lambda: cx.Adam(0.01, weight_decay=0.01),
    "momentum": lambda: cx.SGD(0.05, momentum=0.9, nesterov=True),
    "sgd": lambda: cx.SGD(0.05),
    "accumulating": lambda: cx.Adagrad(0.1, gradient_accumulation_steps=3, use_ema=True, ema_momentum=0.9),
}
SETTINGS = {"batch_size": 16, "epochs": 4, "verbose": 0}     # seven steps in an epoch, the last of four examples


def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(100, 6, 6, 2)).astype(np.float32), rng.integers(0, 4, 100)


def new_net(optimizer="adam", units=4):
    """With everything that a training depends on: dropout draws seeds, the order is shuffled."""
    cx.set_random_seed(9)
    net = cx.Sequential([cx.Conv2D(5, 3, activation="relu"), cx.Dropout(0.3), cx.Flatten(), cx.Dense(units)],
                        input_shape=(6, 6, 2), num_threads=2)
    net.compile(OPTIMIZERS[optimizer](), metrics=["accuracy", "f1", "recall_per_class"])
    return net


def plateau():
    return [cx.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.2, cooldown=1),
            cx.EarlyStopping("val_loss", patience=3, restore_best_weights=True)]


class Stop(cx.Callback):
    """Ends a training as a crash would: between two steps, or after an epoch's checkpoint."""

    def __init__(self, epoch, batch):
        self.left, self.batch = epoch, batch

    def on_batch_end(self, batch, logs):
        if batch == 1:
            self.left -= 1
        if self.left == 0 and batch == self.batch:
            raise KeyboardInterrupt


def everything(net):
    states = [s.data for p in net.parameters for s in net.optimizer.states(p)]
    counts = net.optimizer.steps, net.optimizer.accumulated
    return [*net.get_weights(), *states], counts, net.optimizer.learning_rate, generator().bit_generator.state


def trained():
    """The end of a training that nothing interrupts."""
    net = new_net()
    net.fit(*data(), **SETTINGS)
    return everything(net)


def check_same(first, second):
    assert first[1:] == second[1:]
    assert all(np.array_equal(a, b) for a, b in zip(first[0], second[0], strict=True))


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request):
    return request.param


@pytest.mark.parametrize(("epoch", "batch"), [(1, 3), (2, 1), (3, 7)])
def test_augmentation_and_a_schedule_go_on_where_they_were(tmp_path, epoch, batch):
    def start():
        net = new_net()
        net.compile(cx.SGD(cx.CosineDecay(0.05, 28), momentum=0.9))
        return net, cx.data.Arrays(*data(), augment=[cx.data.RandomShift(1), cx.data.RandomHorizontalFlip()], workers=2,
                                   mix=cx.data.Mixup(0.4))

    whole, source = start()
    whole.fit(source, **SETTINGS)
    end = everything(whole)
    first, source = start()
    with pytest.raises(KeyboardInterrupt):
        first.fit(source, callbacks=[Stop(epoch, batch)], checkpoint=tmp_path, checkpoint_every=2, **SETTINGS)
    second, source = start()
    cx.set_random_seed(12345)
    second.fit(source, resume=tmp_path, **SETTINGS)
    check_same(everything(second), end)
    assert second.optimizer.schedule is not None


@pytest.mark.parametrize(("epoch", "batch", "every"), [(3, 1, None), (1, 4, 2), (2, 5, 2), (3, 7, 1), (4, 7, 7), (2, 3, 1)])
def test_a_resumed_training_has_the_same_bits(tmp_path, optimizer, epoch, batch, every):
    x, y = data()
    validation = {"validation_data": (x[:9], y[:9])}
    whole = new_net(optimizer)
    expected = whole.fit(x, y, callbacks=plateau(), **SETTINGS, **validation)
    end = everything(whole)
    first = new_net(optimizer)
    with pytest.raises(KeyboardInterrupt):
        first.fit(x, y, callbacks=[*plateau(), Stop(epoch, batch)], checkpoint=tmp_path, checkpoint_every=every, **SETTINGS,
                  **validation)
    second = new_net(optimizer)
    second.set_weights([np.zeros(p.shape) for p in second.parameters])
    cx.set_random_seed(12345)
    history = second.fit(x, y, callbacks=plateau(), resume=tmp_path, **SETTINGS, **validation)
    assert history == expected and len(history.learning_rates) == len(history.epochs)
    check_same(everything(second), end)


def test_fewer_batches_for_an_update_than_wait_for_it(tmp_path):
    x, y = data()
    net = new_net("accumulating")
    net.fit(x[:32], y[:32], checkpoint=tmp_path, **{**SETTINGS, "epochs": 1})
    net.compile(cx.Adagrad(0.1, gradient_accumulation_steps=2, use_ema=True))
    text = "Adagrad: `gradient_accumulation_steps` must be more than 2, the batches that wait for an update."
    with pytest.raises(ValueError, match=text):
        net.fit(x[:32], y[:32], resume=tmp_path, **SETTINGS)


def test_running_statistics_are_kept(tmp_path):
    batch_norm = pytest.importorskip("cnnext_normalization").BatchNorm
    x, y = data()

    def net():
        cx.set_random_seed(1)
        made = cx.Sequential([cx.Conv2D(4, 3), batch_norm(), cx.ReLU(), cx.Flatten(), cx.Dense(4)], input_shape=(6, 6, 2))
        made.compile(cx.Adam(0.01))
        return made

    whole = net()
    whole.fit(x, y, **SETTINGS)
    expected = everything(whole)
    net().fit(x, y, checkpoint=tmp_path, **{**SETTINGS, "epochs": 2})
    second = net()
    second.fit(x, y, resume=tmp_path, **SETTINGS)
    assert not np.array_equal(second.get_weights()[4], np.zeros(4))
    check_same(everything(second), expected)


def test_the_same_object_can_go_back(tmp_path, optimizer):
    """A checkpoint without optimizer states undoes those that came later."""
    x, y = data()
    net = new_net(optimizer)
    Checkpoint(tmp_path).save(net._trainer, _progress(), [])
    expected = net.fit(x, y, **SETTINGS).history
    assert net.fit(x, y, resume=tmp_path, **SETTINGS).history == expected


def _progress():
    from cnnext.training.checkpoint import Progress

    return Progress(100, 16, True)


def test_resume_true_begins_where_nothing_is_saved_and_else_goes_on(tmp_path):
    x, y = data()
    folder = tmp_path / "new" / "run"
    expected = trained()
    new_net().fit(x, y, checkpoint=folder, resume=True, **{**SETTINGS, "epochs": 1})
    again = new_net()
    again.fit(x, y, checkpoint=folder, resume=True, **SETTINGS)
    check_same(everything(again), expected)
    steps = again.optimizer.steps
    assert len(again.fit(x, y, checkpoint=folder, resume=True, **SETTINGS).epochs) == 4
    assert again.optimizer.steps == steps
    assert os.listdir(folder) == [FILE_NAME]


def test_a_training_that_stopped_early_stays_stopped(tmp_path):
    x, y = data()

    def stopping():
        return cx.EarlyStopping("loss", min_delta=100, restore_best_weights=True)

    net, again = new_net(), new_net()
    history = net.fit(x, y, callbacks=[stopping()], checkpoint=tmp_path, **SETTINGS)
    assert history.epochs == [1, 2]
    callback = stopping()
    assert again.fit(x, y, callbacks=[callback], resume=tmp_path, **SETTINGS).history == history.history
    assert callback.stopped_epoch == 2
    check_same(everything(again), everything(net))


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".cnnext-0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / "mine.txt").write_text("stays")
    x, y = data()
    new_net().fit(x, y, checkpoint=tmp_path, verbose=0)
    assert sorted(os.listdir(tmp_path)) == [FILE_NAME, "mine.txt"]


@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_a_full_disk(tmp_path, monkeypatch, moment):
    x, y = data()
    new_net().fit(x, y, checkpoint=tmp_path, **{**SETTINGS, "epochs": 1})
    before = (tmp_path / FILE_NAME).read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class FullFile:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, payload):
            self.file.write(payload[: len(payload) // 2])
            full()

    net = new_net()
    with monkeypatch.context() as patch:
        if moment == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            fdopen = os.fdopen
            patch.setattr(os, "fdopen", lambda *args: FullFile(fdopen(*args)))
        text = "cannot be written: No space left on device; the checkpoint before is whole"
        with pytest.raises(OSError, match=text) as caught:
            net.fit(x, y, checkpoint=tmp_path, resume=True, **SETTINGS)
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert os.listdir(tmp_path) == [FILE_NAME]
    expected = trained()
    net.fit(x, y, checkpoint=tmp_path, resume=True, **SETTINGS)
    check_same(everything(net), expected)


@pytest.mark.skipif(not os.path.ismount("/dev/shm") or os.name == "nt" or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_file_system(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no mount here")
    try:
        x, y = data()
        net = new_net()
        net.fit(x, y, checkpoint=folder, **{**SETTINGS, "epochs": 1})
        before = (folder / FILE_NAME).read_bytes()
        (folder / "fill").write_bytes(bytes(256 * 1024 - 2 * len(before)))
        with pytest.raises(OSError, match="No space left on device; the checkpoint before is whole"):
            for _ in range(2):
                net.fit(x, y, checkpoint=folder, resume=True, **SETTINGS)
                (folder / "more").write_bytes(bytes(len(before) // 2))
        assert (folder / FILE_NAME).read_bytes() == before
    finally:
        subprocess.run(["umount", folder], check=True)


def damaged(payload, change):
    if change == "cut":
        return payload[: len(payload) // 2]
    if change == "empty":
        return b""
    return b"\xff" * 40 + payload[40:]


@pytest.mark.parametrize("change", ["cut", "empty", "header"])
def test_a_damaged_file_changes_nothing(tmp_path, change):
    x, y = data()
    new_net().fit(x, y, checkpoint=tmp_path, **{**SETTINGS, "epochs": 1})
    path = tmp_path / FILE_NAME
    path.write_bytes(damaged(path.read_bytes(), change))
    check_refused(new_net(), tmp_path, cx.ModelFileError, FILE_NAME)


def check_refused(net, folder, error, text, **change):
    x, y = data()
    before = everything(net)
    with pytest.raises(error) as caught:
        net.fit(x, y, resume=folder, **{**SETTINGS, **change})
    assert text in str(caught.value)
    check_same(everything(net), before)


@pytest.mark.parametrize(("key", "value"), [
    ("epoch", 0), ("epoch", 7), ("step", -1), ("steps", 1.5), ("learning_rate", 0), ("random", "{}"), ("random", "no JSON"),
    ("random", json.dumps({"bit_generator": "PCG64", "state": {"state": 1}})), ("callbacks", None), ("examples", "many"),
    ("examples", 99), ("weight", None), ("latest_rate", -1.0),
])
def test_a_document_with_errors_changes_nothing(tmp_path, key, value):
    x, y = data()
    with pytest.raises(KeyboardInterrupt):
        new_net().fit(x, y, callbacks=[Stop(2, 4)], checkpoint=tmp_path, checkpoint_every=2, **SETTINGS)
    tensors, document = modelfile.load(tmp_path / FILE_NAME)
    modelfile.save(tmp_path / FILE_NAME, tensors, {**document, key: value})
    check_refused(new_net(), tmp_path, cx.ModelFileError, "is damaged")
    del document[key]
    modelfile.save(tmp_path / FILE_NAME, tensors, document)
    check_refused(new_net(), tmp_path, cx.ModelFileError, "is damaged")


@pytest.mark.parametrize(("name", "array"), [
    ("order", np.zeros(100, np.int64)), ("order", np.arange(100.0)), ("parameter/x", np.zeros(3, np.float32)),
    ("history/loss", np.zeros(1)), ("history/0/loss", np.zeros(5)), ("optimizer/a/b", np.zeros(3)),
    ("optimizer/0/0", np.zeros(3, np.float32)),
    ("means/0/loss", np.zeros(0)), ("counts/confusion", np.zeros((3, 3), np.int64)), ("counts/confusion", np.zeros((4, 4))),
    ("learning_rates", np.zeros(0)), ("optimizer/77/0", np.zeros(3, np.float32)),
])
def test_arrays_with_errors_change_nothing(tmp_path, name, array):
    x, y = data()
    with pytest.raises(KeyboardInterrupt):
        new_net("momentum").fit(x, y, callbacks=[Stop(2, 4)], checkpoint=tmp_path, checkpoint_every=2, **SETTINGS)
    tensors, document = modelfile.load(tmp_path / FILE_NAME)
    modelfile.save(tmp_path / FILE_NAME, {**tensors, name: array}, document)
    check_refused(new_net("momentum"), tmp_path, cx.ModelFileError, "is damaged")


def test_what_a_callback_cannot_take_back_changes_nothing(tmp_path):
    x, y = data()
    new_net().fit(x, y, callbacks=plateau(), validation_split=0.1, checkpoint=tmp_path, **{**SETTINGS, "epochs": 1})
    tensors, document = modelfile.load(tmp_path / FILE_NAME)
    tensors["callback/1/monitor"] = np.zeros(1)
    modelfile.save(tmp_path / FILE_NAME, tensors, document)
    for callbacks in (plateau(), plateau()[::-1]):
        check_refused(new_net(), tmp_path, ValueError, "checkpoint", callbacks=callbacks)


def test_what_belongs_to_another_training(tmp_path):
    x, y = data()
    with pytest.raises(KeyboardInterrupt):
        new_net().fit(x, y, callbacks=[Stop(2, 4)], checkpoint=tmp_path, checkpoint_every=2, **SETTINGS)
    check_refused(new_net(units=5), tmp_path, ValueError, "`parameters` must have the shapes of model")
    other = new_net()
    other.compile(OPTIMIZERS["adam"](), metrics=["accuracy"])
    check_refused(other, tmp_path, ValueError, "`metrics` must be as in the epoch that is to go on, ['accuracy', 'con")
    check_refused(new_net("sgd"), tmp_path, ValueError, "`optimizer` must be SGD")
    for change in ({"batch_size": 20}, {"shuffle": False}):
        name, = change
        check_refused(new_net(), tmp_path, ValueError, f"`{name}` must be as in the epoch that is to go on", **change)
    check_refused(new_net(), tmp_path, ValueError, "`callbacks` must be those", callbacks=plateau())
    check_refused(new_net(), tmp_path / "nowhere", FileNotFoundError, "`resume` must be a folder with a checkpoint")
    check_refused(new_net(), 5, TypeError, "`resume` must be the path of a folder")
    check_refused(new_net(), True, ValueError, "`resume` must be a folder where no `checkpoint` is given")
    check_refused(new_net(), False, ValueError, "`checkpoint_every` must be None", checkpoint_every=3)
    new_net().save(tmp_path / FILE_NAME)
    check_refused(new_net(), tmp_path, cx.ModelFileError, "`checkpoint` must be 1")


def test_a_checkpoint_is_no_model(tmp_path):
    x, y = data()
    new_net().fit(x, y, checkpoint=tmp_path, verbose=0)
    with pytest.raises(cx.ModelFileError):
        cx.load(tmp_path / FILE_NAME)


class CtrlC(cx.Callback):
    def __init__(self, step, times=1):
        self.step, self.times, self.batches = step, times, 0

    def on_batch_end(self, batch, logs):
        self.batches += 1
        if self.batches == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)


@pytest.fixture
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler


@pytest.mark.skipif(os.name == "nt", reason="no signals to oneself")
@pytest.mark.parametrize("step", [1, 5, 7, 15])
def test_ctrl_c_saves_a_whole_state(tmp_path, default_handler, step):
    x, y = data()
    expected = trained()
    net, callback = new_net(), CtrlC(step)
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, callbacks=[callback], checkpoint=tmp_path, **SETTINGS)
    assert (callback.batches, net.optimizer.steps) == (step, step)
    again = new_net()
    again.fit(x, y, resume=tmp_path, **SETTINGS)
    check_same(everything(again), expected)


@pytest.mark.skipif(os.name == "nt", reason="no signals to oneself")
def test_a_second_ctrl_c_does_not_wait(tmp_path, default_handler):
    net = new_net()
    with pytest.raises(KeyboardInterrupt):
        net.fit(*data(), callbacks=[CtrlC(2, times=2)], checkpoint=tmp_path, **SETTINGS)
    assert os.listdir(tmp_path) == []


def test_in_another_thread(default_handler):
    """Only the main thread may have a handler."""
    net, seen = new_net(), []
    thread = threading.Thread(target=lambda: seen.append(net.fit(*data(), **SETTINGS)))
    thread.start()
    thread.join()
    assert seen[0].epochs == [1, 2, 3, 4]


PROGRAM = """
import sys
import numpy as np
sys.path.insert(0, {root!r})
from tests.training import test_checkpoint as t
x, y = t.data()
net = t.new_net()
print("ready", flush=True)
net.fit(x, y, callbacks=t.plateau()[:1], checkpoint={folder!r}, checkpoint_every=1, resume=True,
        **{{**t.SETTINGS, "epochs": {epochs}}})
np.savez({end!r}, *t.everything(net)[0])
"""
EPOCHS = 25


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_killed_at_random_moments(tmp_path):
    """Every step saves, so that many of the moments lie within a save."""
    kills = 200 if os.environ.get("CNNEXT_TEST_PROFILE") == "explore" else 40
    x, y = data()
    whole = new_net()
    whole.fit(x, y, callbacks=plateau()[:1], **{**SETTINGS, "epochs": EPOCHS})
    expected, rng, round_number = everything(whole)[0], random.Random(4), 0
    while kills > 0:
        round_number += 1
        folder, end = tmp_path / f"run{round_number}", tmp_path / f"end{round_number}.npz"
        kills -= trained_with_kills(folder, end, rng, kills)
        with np.load(end) as arrays:
            assert all(np.array_equal(a, arrays[name]) for a, name in zip(expected, arrays.files, strict=True))


def trained_with_kills(folder, end, rng, most):
    """Train to the end, restarting each time; returns how often the process was killed."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program, kills = PROGRAM.format(root=root, folder=str(folder), end=str(end), epochs=EPOCHS), 0
    while not end.exists():
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout.readline() == b"ready\n"
            if kills < most:
                time.sleep(rng.uniform(0, 0.15))
                process.send_signal(signal.SIGKILL)
            code = process.wait()
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code and (folder / FILE_NAME).exists():
            modelfile.load(folder / FILE_NAME)
    return kills


def test_the_program_that_is_killed_saves_after_each_step(tmp_path, monkeypatch):
    saved = []
    save = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", lambda self, *args: (saved.append(args[1].step), save(self, *args)))
    x, y = data()
    new_net().fit(x, y, checkpoint=tmp_path, checkpoint_every=3, batch_size=16, verbose=0)
    assert saved == [3, 6, 0]


def test_a_crash_in_the_middle_of_a_step(tmp_path, monkeypatch):
    x, y = data()
    expected = trained()
    net = new_net()
    run, calls = Plan.run, []

    def failing(plan, *args, **kwargs):
        calls.append(1)
        if len(calls) == 11:
            raise MemoryError
        return run(plan, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "run", failing)
        with pytest.raises(MemoryError):
            net.fit(x, y, checkpoint=tmp_path, checkpoint_every=2, **SETTINGS)
    second = new_net()
    second.fit(x, y, resume=tmp_path, **SETTINGS)
    check_same(everything(second), expected)
