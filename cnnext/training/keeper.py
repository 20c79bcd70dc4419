"""What goes on around the steps of a ``fit``: callbacks, checkpoints, Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cnnext.errors import message
from cnnext.layers.attributes import as_int
from cnnext.training.callbacks import Callback
from cnnext.training.checkpoint import Checkpoint, Progress

if TYPE_CHECKING:
    from cnnext.training.loop import Trainer


class Keeper:
    """The callbacks and the checkpoint of a ``fit``."""

    def __init__(self, trainer: Trainer, callbacks: list[Callback], folder: str | os.PathLike[str] | None,
                 every: int | None):
        self.trainer = trainer
        self.callbacks = callbacks
        self.interrupted = False
        self.checkpoint = Checkpoint(folder) if folder is not None else None
        if every is not None and folder is None:
            raise ValueError(message("fit", "checkpoint_every", "be None where no checkpoint is saved", every))
        self.every = as_int("fit", "checkpoint_every", every, minimum=1) if every is not None else None

    @contextmanager
    def running(self, progress: Progress, resume: str | os.PathLike[str] | bool) -> Iterator[Progress]:
        """Where the training begins or goes on; the callbacks are told of its begin and its end, however it ends."""
        for callback in self.callbacks:
            callback.model = self.trainer.model
            callback.on_train_begin()
        progress = self._resumed(progress, resume)
        try:
            with self._ctrl_c_waits():
                yield progress
        finally:
            for callback in self.callbacks:
                callback.on_train_end()

    @contextmanager
    def _ctrl_c_waits(self) -> Iterator[None]:
        """Let Ctrl-C wait for the end of the step, so that the state that is kept is a whole one; a second one does not."""
        self.interrupted = False
        if (threading.current_thread() is not threading.main_thread()
                or signal.getsignal(signal.SIGINT) is not signal.default_int_handler):
            yield       # Ctrl-C is somebody else's
            return

        def note(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _resumed(self, progress: Progress, resume: str | os.PathLike[str] | bool) -> Progress:
        if resume is True and self.checkpoint is None:
            raise ValueError(message("fit", "resume", "be a folder where no `checkpoint` is given", resume))
        source = self.checkpoint if resume is True else Checkpoint(resume, "resume") if resume is not False else None
        if source is not None and (resume is not True or source.exists()):
            progress = source.load(self.trainer, progress, self.callbacks)
            self.trainer.model.stop_training = progress.stopped
        if self.checkpoint is not None:
            self.checkpoint.make_folder()
        return progress

    def batch_ended(self, values: dict[str, float], progress: Progress) -> None:
        """After a step."""
        for callback in self.callbacks:
            callback.on_batch_end(progress.step, values)
        if self.interrupted or self.every is not None and progress.step % self.every == 0:
            self._save(progress)
        self._end_if_interrupted()

    def epoch_ended(self, epoch: int, values: dict[str, float]) -> None:
        """After an epoch and its validation, with the weights that it validated."""
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, values)

    def between_epochs(self, progress: Progress) -> None:
        """After that, with the weights to go on with."""
        self._save(progress)
        self._end_if_interrupted()

    def _end_if_interrupted(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def _save(self, progress: Progress) -> None:
        if self.checkpoint is not None:
            progress.stopped = self.trainer.model.stop_training
            self.checkpoint.save(self.trainer, progress, self.callbacks)
