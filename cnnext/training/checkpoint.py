"""Checkpoints: the whole state of a training, from which it goes on with the same bits.

A checkpoint is one file in a folder of its own, so that it is replaced as a whole or not at all. It is a file as of
``cnnext.modelfile``: arrays, and a JSON document beside them; reading it runs no code.

    parameter/I             contents of the model's parameter I, running statistics too
    optimizer/I/J           what the optimizer keeps for it
    order                   the examples' order in the epoch that runs, where they are shuffled
    means/I/NAME            sums over the steps of that epoch so far, in the order in which they are shown
    counts/NAME             confusion matrices of those steps
    history/I/NAME          a value for each epoch that is over
    learning_rates          the rate at its end
    callback/I/KEY          what callback I remembers
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext import modelfile
from cnnext.errors import ModelFileError, message
from cnnext.graph.graph import INT64
from cnnext.layers.attributes import as_int, as_number
from cnnext.modelfile import Limits
from cnnext.stored import Tensor, in_memory
from cnnext.training.callbacks import Callback
from cnnext.training.history import History, Means
from cnnext.training.initializers import generator
from cnnext.training.metrics import ConfusionMetric, Metric

if TYPE_CHECKING:
    from cnnext.training.loop import Trainer

FORMAT = 1
FILE_NAME = "checkpoint.safetensors"
_LIMITS = Limits(max_bytes=1 << 40)     # large optimizer states are no reason to refuse one's own file
_DAMAGE = (LookupError, TypeError, ValueError, OverflowError, AttributeError)     # what reading nonsense raises


@dataclass
class TrainingState:
    """What one step of training depends on, besides its batch.

    Attributes
    ----------
    parameters : list of ndarray
        Of the model, in its order.
    slots : dict of int to list of ndarray
        What the optimizer keeps for each parameter that it has updated, by the parameter's index.
    steps, accumulated : int
        Updates, and batches whose gradients wait for the next one.
    learning_rate : float, or None
        None where a schedule gives it: that follows from the steps.
    random : dict
        State of the generator that everything random draws from.
    """

    parameters: list[np.ndarray]
    slots: dict[int, list[np.ndarray]]
    steps: int
    accumulated: int
    learning_rate: float | None
    random: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer) -> TrainingState:
        """A copy of the present state."""
        optimizer, parameters = trainer.optimizer, trainer.model.parameters
        slots = {i: [s.data.copy() for s in optimizer.states(p)]
                 for i, p in enumerate(parameters) if p in optimizer._states}
        rate = optimizer.learning_rate if optimizer.schedule is None else None
        return cls([p.peek().copy() for p in parameters], slots, optimizer.steps, optimizer.accumulated, rate,
                   dict(generator().bit_generator.state))

    def restore(self, trainer: Trainer) -> None:
        """Make it the present state."""
        optimizer = trainer.optimizer
        for i, (p, array) in enumerate(zip(trainer.model.parameters, self.parameters, strict=True)):
            p.assign(array)
            if i in self.slots or p in optimizer._states:
                for state, kept in zip(optimizer.states(p), self.slots.get(i) or optimizer.first_states(p), strict=True):
                    state.assign(kept)
        optimizer.steps, optimizer.accumulated = self.steps, self.accumulated
        if self.learning_rate is not None and optimizer.schedule is None:
            optimizer.learning_rate = self.learning_rate
        generator().bit_generator.state = self.random


@dataclass
class Progress:
    """How far a ``fit`` has come.

    Attributes
    ----------
    examples, batch_size : int
        No examples are known beforehand of what a generator gives.
    shuffle : bool
    epoch, step : int
        The epoch that runs or comes next, from 1, and the steps of it that are done.
    order : ndarray of int64, or None
        The examples' order in this epoch, once it has begun and if they are shuffled.
    seed : int, or None
        Of this epoch's augmentation.
    means : Means
        Over the steps that are done.
    learning_rate : float
        Of the last of them.
    history : History
        Of the epochs before.
    stopped : bool
        Whether a callback has ended the training.
    """

    examples: int
    batch_size: int
    shuffle: bool
    epoch: int = 1
    step: int = 0
    order: np.ndarray | None = None
    seed: int | None = None
    means: Means = field(default_factory=Means)
    learning_rate: float = 0.0
    history: History = field(default_factory=History)
    stopped: bool = False

    def end_epoch(self, values: dict[str, float]) -> None:
        """Go on to the next epoch."""
        self.history.append(values, self.learning_rate)
        self.epoch, self.step, self.order, self.seed, self.means = self.epoch + 1, 0, None, None, Means()


class Checkpoint:
    """The checkpoint in a folder.

    Parameters
    ----------
    folder : path
        Of its own: what killed processes left half written in it is removed.
    argument : str
        The argument of ``fit`` that gave it.
    """

    def __init__(self, folder: str | os.PathLike[str], argument: str = "checkpoint"):
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(message("fit", argument, "be the path of a folder", folder))
        self.folder = os.fspath(folder)
        self.path = os.path.join(self.folder, FILE_NAME)
        self.where = f"checkpoint {self.folder!r}"

    def exists(self) -> bool:
        """Whether there is one."""
        return os.path.exists(self.path)

    def make_folder(self) -> None:
        """Make the folder, or remove what a process killed while it was saving left there."""
        os.makedirs(self.folder, exist_ok=True)
        for name in os.listdir(self.folder):
            if name.startswith(".cnnext-") and name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.folder, name))

    def save(self, trainer: Trainer, progress: Progress, callbacks: Sequence[Callback]) -> None:
        """Write the checkpoint; until that is done, the one before stays whole.

        Raises
        ------
        OSError
            If it cannot be written, for example because the disk is full.
        """
        state = TrainingState.of(trainer)
        kept = _kept(callbacks)
        document = {
            "checkpoint": FORMAT, "optimizer": type(trainer.optimizer).__name__,
            "steps": state.steps, "accumulated": state.accumulated, "learning_rate": state.learning_rate,
            "random": json.dumps(state.random),
            "examples": progress.examples, "batch_size": progress.batch_size, "shuffle": progress.shuffle,
            "epoch": progress.epoch, "step": progress.step, "seed": progress.seed, "weight": progress.means.weight,
            "latest_rate": progress.learning_rate, "stopped": progress.stopped,
            "callbacks": [type(c).__name__ for c, _ in kept],
        }
        try:
            modelfile.save(self.path, _tensors(state, progress, [values for _, values in kept]), document)
        except OSError as error:
            before = "; the checkpoint before is whole" if self.exists() else ""
            raise OSError(error.errno, f"{self.where}: cannot be written: {error.strerror}{before}", self.path) from error

    def load(self, trainer: Trainer, progress: Progress, callbacks: Sequence[Callback]) -> Progress:
        """Put a trainer and callbacks into the state of the checkpoint.

        Parameters
        ----------
        progress : Progress
            Of the ``fit`` that is to go on.

        Returns
        -------
        Progress
            Where it goes on.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ModelFileError
            If the file is damaged, or no checkpoint.
        ValueError
            If it belongs to another model, optimizer or ``fit``. Nothing is changed then, nor after a ``ModelFileError``.
        """
        if not self.exists():
            raise FileNotFoundError(message("fit", "resume", f"be a folder with a {FILE_NAME}", self.folder))
        tensors, document = modelfile.load(self.path, limits=_LIMITS)
        if document.get("checkpoint") != FORMAT:
            raise ModelFileError(message(self.where, "checkpoint", f"be {FORMAT}: the file must be a checkpoint that this "
                                         "release can read", document.get("checkpoint")))
        try:
            arrays = {name: in_memory(tensor) for name, tensor in tensors.items()}
            state, found = _state(arrays, document), _progress(arrays, document)
            kept = [_under(arrays, f"callback/{i}/") for i in range(len(document["callbacks"]))]
        except _DAMAGE as error:
            raise ModelFileError(f"{self.where}: is damaged: {error!r}.") from error
        self._check(trainer, state, document, progress, found)
        self._restore_callbacks(callbacks, document["callbacks"], kept)
        state.restore(trainer)
        return found

    def _check(self, trainer: Trainer, state: TrainingState, document: Mapping[str, Any], now: Progress,
               found: Progress) -> None:
        """Refuse the checkpoint of another model, optimizer or, in the middle of an epoch, other batches."""
        shapes = [p.shape for p in trainer.model.parameters]
        if [a.shape for a in state.parameters] != shapes:
            raise ValueError(message(self.where, "parameters", f"have the shapes of model {trainer.model.name!r}, {shapes}",
                                     [a.shape for a in state.parameters]))
        optimizer, n = type(trainer.optimizer).__name__, len(trainer.optimizer.slot_names)
        if document["optimizer"] != optimizer or any(len(slots) != n for slots in state.slots.values()):
            raise ValueError(message(self.where, "optimizer", f"be {optimizer} with {n} array(s) for each parameter",
                                     document["optimizer"]))
        if state.accumulated >= trainer.optimizer.gradient_accumulation_steps:
            rule = f"be more than {state.accumulated}, the batches that wait for an update"
            raise ValueError(message(optimizer, "gradient_accumulation_steps", rule,
                                     trainer.optimizer.gradient_accumulation_steps, self.where))
        for i, slots in state.slots.items():
            if i >= len(shapes) or any(s.shape != shapes[i] for s in slots):
                raise ModelFileError(f"{self.where}: is damaged: optimizer/{i} has another shape than its parameter.")
        if found.step:
            self._check_metrics(trainer, found.means)
            for name in ("examples", "batch_size", "shuffle"):
                rule = f"be as in the epoch that is to go on, {getattr(found, name)}"
                if getattr(now, name) != getattr(found, name):
                    raise ValueError(message("fit", name, rule, getattr(now, name), self.where))

    def _check_metrics(self, trainer: Trainer, found: Means) -> None:
        """In the middle of an epoch the metrics have to be those that it began with."""
        wanted = {"loss", *(m.name for m in trainer.metrics if isinstance(m, Metric))}
        counted = {m.counted: m.classes for m in trainer.metrics if isinstance(m, ConfusionMetric)}
        if (found.sums.keys(), found.counts.keys()) != (wanted, counted.keys()):
            raise ValueError(message("fit", "metrics", "be as in the epoch that is to go on, "
                                     f"{sorted([*found.sums, *found.counts])}", sorted([*wanted, *counted]), self.where))
        for name, classes in counted.items():
            matrix = found.counts[name]
            if matrix.shape != (classes, classes) or matrix.dtype != INT64:
                raise ModelFileError(f"{self.where}: is damaged: counts/{name} is no matrix of {classes} classes.")

    def _restore_callbacks(self, callbacks: Sequence[Callback], names: list[str], kept: list[dict[str, np.ndarray]]) -> None:
        stateful = [c for c, _ in _kept(callbacks)]
        if [type(c).__name__ for c in stateful] != names:
            raise ValueError(message("fit", "callbacks", f"be those of the checkpoint, as far as they remember: {names}",
                                     [type(c).__name__ for c in stateful], self.where))
        try:
            for callback, values in zip(stateful, kept, strict=True):
                callback.set_state(values)
        except _DAMAGE as error:
            raise ModelFileError(f"{self.where}: is damaged: {error!r}.") from error


def _kept(callbacks: Sequence[Callback]) -> list[tuple[Callback, dict[str, np.ndarray]]]:
    """The callbacks that remember something, and what."""
    return [(c, values) for c in callbacks if (values := c.get_state())]


def _tensors(state: TrainingState, progress: Progress, kept: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    tensors = {f"parameter/{i}": a for i, a in enumerate(state.parameters)}
    tensors |= {f"optimizer/{i}/{j}": a for i, slots in state.slots.items() for j, a in enumerate(slots)}
    if progress.order is not None:
        tensors["order"] = progress.order
    tensors |= {f"means/{i}/{name}": np.array([total]) for i, (name, total) in enumerate(progress.means.sums.items())}
    tensors |= {f"counts/{name}": array for name, array in progress.means.counts.items()}
    tensors |= {f"history/{i}/{name}": np.array(a) for i, (name, a) in enumerate(progress.history.history.items())}
    tensors["learning_rates"] = np.array(progress.history.learning_rates)
    return tensors | {f"callback/{i}/{key}": a for i, values in enumerate(kept) for key, a in values.items()}


def _under(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _named(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Those whose names are PREFIX PLACE / NAME, by name in the order of their places."""
    found = sorted(_under(arrays, prefix).items(), key=lambda item: int(item[0].partition("/")[0]))
    return {key.partition("/")[2]: a for key, a in found}


def _state(arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> TrainingState:
    parameters = _under(arrays, "parameter/")
    slots: dict[int, list[np.ndarray]] = {}
    for name in sorted(_under(arrays, "optimizer/"), key=lambda name: [int(part) for part in name.split("/")]):
        slots.setdefault(int(name.split("/")[0]), []).append(arrays[f"optimizer/{name}"])
    random, rate = json.loads(document["random"]), document["learning_rate"]
    np.random.PCG64().state = random        # refuses what is no state
    return TrainingState([parameters[str(i)] for i in range(len(parameters))], slots,
                         as_int("checkpoint", "steps", document["steps"], minimum=0),
                         as_int("checkpoint", "accumulated", document.get("accumulated", 0), minimum=0),
                         None if rate is None else as_number("checkpoint", "learning_rate", rate, above=0), random)


def _progress(arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Progress:
    epoch, step, weight, examples, batch_size = (
        as_int("checkpoint", key, document[key], minimum=minimum)
        for key, minimum in (("epoch", 1), ("step", 0), ("weight", 0), ("examples", 0), ("batch_size", 1)))
    order = arrays.get("order")
    if order is not None and (order.dtype != INT64 or not np.array_equal(np.sort(order), np.arange(examples))):
        raise ValueError("`order` is no order of the examples")
    means = Means({name: float(a[0]) for name, a in _named(arrays, "means/").items()}, weight, _under(arrays, "counts/"))
    history = History({name: a.tolist() for name, a in _named(arrays, "history/").items()}, list(range(1, epoch)),
                      arrays["learning_rates"].tolist())
    if any(len(values) != epoch - 1 for values in (history.learning_rates, *history.history.values())):
        raise ValueError(f"`history` has not {epoch - 1} values")
    seed = document["seed"]
    if seed is not None:
        seed = as_int("checkpoint", "seed", seed, minimum=0, maximum=2**63 - 1)
    rate = as_number("checkpoint", "latest_rate", document["latest_rate"], minimum=0)
    return Progress(examples, batch_size, document["shuffle"] is True, epoch, step, order, seed, means, rate, history,
                    document["stopped"] is True)
