"""Callbacks: what is called while ``fit`` runs. Names follow Keras; epochs and batches are counted from 1."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext._files import atomic_write
from cnnext.errors import message, unknown
from cnnext.layers.attributes import as_int, as_number

if TYPE_CHECKING:
    from cnnext.model import Model


class Callback:
    """Base class: every method may be left as it is.

    Attributes
    ----------
    model : Model
        Set when ``fit`` begins. ``model.stop_training = True`` ends the training after the epoch that runs;
        ``model.optimizer.learning_rate`` may be set.
    """

    model: Model

    def on_train_begin(self) -> None:
        """Before the first step; when a training is resumed, before its state is restored."""

    def on_train_end(self) -> None:
        """After the last step, and after Ctrl-C and errors too."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """After an epoch and its validation; ``logs`` are the values that ``History`` gets."""

    def on_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        """After a step; ``logs`` are loss and metrics of its batch before the update."""

    def get_state(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps, so that a resumed training behaves as one that was never interrupted."""
        return {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what ``get_state`` gave."""


class _Monitor(Callback):
    """Watches a value for its best; base of callbacks that act on it."""

    def __init__(self, monitor: str, mode: str, min_delta: float):
        self.where = type(self).__name__
        if mode not in ("auto", "min", "max"):
            raise ValueError(message(self.where, "mode", "be 'auto', 'min' or 'max'", mode))
        self.monitor = monitor
        grows = mode == "max" or mode == "auto" and "loss" not in monitor and "error" not in monitor
        self.sign = -1.0 if grows else 1.0
        self.min_delta = as_number(self.where, "min_delta", min_delta, minimum=0)
        self._forget()

    def _forget(self) -> None:
        self.best, self.best_epoch, self.wait = math.inf, 0, 0

    def on_train_begin(self) -> None:
        self._forget()

    def _improves(self, epoch: int, logs: Mapping[str, float]) -> bool:
        """Whether this epoch is the best so far, by more than ``min_delta``; counts the epochs since then."""
        if self.monitor not in logs:
            raise ValueError(f"{self.where}: " + unknown("value", self.monitor, logs))
        value = self.sign * logs[self.monitor]
        if value < self.best - self.min_delta:
            self.best, self.best_epoch, self.wait = value, epoch, 0
            return True
        self.wait += 1
        return False

    def get_state(self) -> dict[str, np.ndarray]:
        return {"monitor": np.array([self.best, self.best_epoch, self.wait])}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        best, epoch, wait = state["monitor"].tolist()
        self.best, self.best_epoch, self.wait = best, int(epoch), int(wait)


class EarlyStopping(_Monitor):
    """Ends the training when a value has stopped to improve.

    Parameters
    ----------
    monitor : str
        "val_loss", "loss", "val_accuracy", ...
    min_delta : float
        Only an improvement by more than this counts.
    patience : int
        Epochs without improvement after which the training ends.
    mode : "auto", "min" or "max"
        "auto": losses and error rates shall fall, all else grow.
    restore_best_weights : bool
        At the end, also after Ctrl-C, go back to the weights of the best epoch.

    Attributes
    ----------
    stopped_epoch : int
        The epoch after which the training was ended; 0 if it was not.
    """

    def __init__(self, monitor: str = "val_loss", min_delta: float = 0.0, patience: int = 0, mode: str = "auto",
                 restore_best_weights: bool = False):
        super().__init__(monitor, mode, min_delta)
        self.patience = as_int(self.where, "patience", patience, minimum=0)
        self.restore_best_weights = bool(restore_best_weights)
        self.stopped_epoch = 0
        self._weights: list[np.ndarray] = []

    def _forget(self) -> None:
        super()._forget()
        self.stopped_epoch, self._weights = 0, []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        if self._improves(epoch, logs):
            if self.restore_best_weights:
                self._weights = self.model.get_weights()
        elif self.wait >= max(self.patience, 1):
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self) -> None:
        if self._weights:
            self.model.set_weights(self._weights)

    def get_state(self) -> dict[str, np.ndarray]:
        weights = {f"weights/{i}": w for i, w in enumerate(self._weights)}
        return {**super().get_state(), "stopped_epoch": np.array([self.stopped_epoch]), **weights}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        super().set_state(state)
        self.stopped_epoch = int(state["stopped_epoch"][0])
        self._weights = [state[f"weights/{i}"] for i in range(sum(key.startswith("weights/") for key in state))]


class ModelCheckpoint(_Monitor):
    """Writes the model file after every epoch, or after each that is the best so far.

    This is the model alone, for inference; ``fit(checkpoint=...)`` keeps what a training needs to go on.

    Parameters
    ----------
    filepath : path
        Written atomically. Fields are filled in: ``"net-{epoch:02d}-{val_loss:.3f}.safetensors"``.
    monitor, mode
        As for ``EarlyStopping``.
    save_best_only : bool
    """

    def __init__(self, filepath: str | os.PathLike[str], monitor: str = "val_loss", mode: str = "auto",
                 save_best_only: bool = False):
        super().__init__(monitor, mode, 0.0)
        self.filepath = os.fspath(filepath)
        self.save_best_only = bool(save_best_only)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        if not self.save_best_only or self._improves(epoch, logs):
            self.model.save(self.filepath.format(epoch=epoch, **logs))


class ReduceLROnPlateau(_Monitor):
    """Multiplies the learning rate by a factor when a value has stopped to improve.

    Parameters
    ----------
    monitor, min_delta, mode
        As for ``EarlyStopping``.
    factor : float
        In (0, 1).
    patience : int
        Epochs without improvement after which the rate is reduced.
    cooldown : int
        Epochs after a reduction in which none is counted.
    min_lr : float
        The rate never falls below.
    """

    def __init__(self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10, mode: str = "auto",
                 min_delta: float = 1e-4, cooldown: int = 0, min_lr: float = 0.0):
        super().__init__(monitor, mode, min_delta)
        self.factor = as_number(self.where, "factor", factor, above=0, below=1)
        self.patience = as_int(self.where, "patience", patience, minimum=0)
        self.cooldown = as_int(self.where, "cooldown", cooldown, minimum=0)
        self.min_lr = as_number(self.where, "min_lr", min_lr, minimum=0)

    def _forget(self) -> None:
        super()._forget()
        self._cooling = 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        improves = self._improves(epoch, logs)
        if self._cooling:
            self._cooling, self.wait = self._cooling - 1, 0
        elif not improves and self.wait >= max(self.patience, 1):
            optimizer = self.model.optimizer
            lower = max(optimizer.learning_rate * self.factor, self.min_lr)
            if lower < optimizer.learning_rate:
                optimizer.learning_rate = lower
            self._cooling, self.wait = self.cooldown, 0

    def get_state(self) -> dict[str, np.ndarray]:
        return {**super().get_state(), "cooling": np.array([self._cooling])}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        super().set_state(state)
        self._cooling = int(state["cooling"][0])


class _EpochLog(Callback, ABC):
    """A file with a row for each epoch; base of the logs.

    The file is replaced as a whole after each epoch. Rows of earlier epochs stay, so that a resumed training continues its
    log and an epoch that is repeated stands there once; epoch 1 begins a new file.

    Parameters
    ----------
    filename : path
    """

    def __init__(self, filename: str | os.PathLike[str]):
        self.filename = os.fspath(filename)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        rows: list[dict[str, Any]] = []
        if epoch > 1 and os.path.exists(self.filename):
            with open(self.filename, encoding="utf-8", newline="") as file:
                rows = [row for row in self._rows(file.read()) if int(row["epoch"]) < epoch]
        rows.append({"epoch": epoch, "learning_rate": self.model.optimizer.learning_rate, **logs})
        with atomic_write(self.filename) as target:
            target.write(self._text(rows).encode())

    @abstractmethod
    def _rows(self, text: str) -> list[dict[str, Any]]:
        """The rows of a file."""

    @abstractmethod
    def _text(self, rows: list[dict[str, Any]]) -> str:
        """The file of these rows."""


class CSVLogger(_EpochLog):
    """A table of comma-separated values with a row for each epoch; a resumed training continues it.

    Parameters
    ----------
    filename : path
    """

    def _rows(self, text: str) -> list[dict[str, Any]]:
        return list(csv.DictReader(io.StringIO(text)))

    def _text(self, rows: list[dict[str, Any]]) -> str:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()


class JSONLinesLogger(_EpochLog):
    """A file with a JSON object on a line for each epoch; a resumed training continues it.

    Parameters
    ----------
    filename : path
    """

    def _rows(self, text: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in text.splitlines()]

    def _text(self, rows: list[dict[str, Any]]) -> str:
        return "".join(json.dumps(row) + "\n" for row in rows)


class TensorBoardLogger(Callback):
    """Files for TensorBoard: each value by epoch, training and validation in one chart, and the learning rate.

    Needs a writer of such files: the package tensorboardX, or PyTorch with tensorboard. A training that goes on, or begins
    anew, in the same folder hides what was written there of the epochs that it repeats.

    Parameters
    ----------
    log_dir : path
        A folder for each run; ``tensorboard --logdir`` takes it or the folder that holds it.

    Raises
    ------
    ImportError
        If there is no writer.
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "logs"):
        self.log_dir = os.fspath(log_dir)
        self._new_writer = _event_writer()
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        if self._writer is None:
            # the suffix, since the writers name files by the second
            self._writer = self._new_writer(self.log_dir, purge_step=epoch, filename_suffix=f".from-epoch-{epoch}")
        for name, value in {"learning_rate": self.model.optimizer.learning_rate, **logs}.items():
            kind = "validation" if name.startswith("val_") else "training"
            tag = name if name == "learning_rate" else f"{name.removeprefix('val_')}/{kind}"
            self._writer.add_scalar(tag, value, epoch)
        self._writer.flush()

    def on_train_end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _event_writer() -> Any:
    """The class that writes the files, of whichever package is there."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            text = "TensorBoardLogger needs a writer of its files. Install it: pip install tensorboardX"
            raise ImportError(text, name="tensorboardX") from None
    return SummaryWriter


def check_callbacks(callbacks: Any) -> list[Callback]:
    """The callbacks as a list.

    Raises
    ------
    TypeError
        If they are no list of callbacks.
    """
    if isinstance(callbacks, Callback) or not isinstance(callbacks, (list, tuple)):
        raise TypeError(message("fit", "callbacks", "be a list of callbacks", callbacks))
    for i, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            raise TypeError(message("fit", f"callbacks[{i}]", "be a cnnext.Callback", callback))
    return list(callbacks)
