"""Examples that are made one by one, in background threads, while the engine trains on the batch before.

Design
    An example draws from a stream of its own: Philox, whose key is (seed of the epoch, index of the example). Its bits
    therefore depend on neither the number of workers nor their order. A batch whose examples are mixed draws from one more
    stream, named by its first example; the worker that makes the last of them mixes. Threads are enough: Pillow decodes
    without the GIL, and the engine runs a whole step without it.
"""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, TypeVar

import numpy as np

from cnnext.data.augment import Augmentation, CutMix, Mixture
from cnnext.errors import message
from cnnext.graph.graph import FLOAT32, Value
from cnnext.layers.attributes import as_int
from cnnext.threads import available_threads
from cnnext.training.data import Batch, Batches, as_array, check_targets, matches, shown
from cnnext.training.initializers import generator

Self = TypeVar("Self", bound="DataSource")

MIXTURE = 1 << 63  # names the stream of a batch, in place of an example's number
PER_TASK = 16  # examples: few enough to spread a batch over the workers, enough to hide what a task costs


class DataSource(ABC):
    """What ``fit`` and ``evaluate`` take in place of arrays: examples that are read when they are wanted.

    A class of one's own defines `read` and `name`.

    Parameters
    ----------
    shape : tuple of int
        Of one example.
    targets : ndarray, shape (examples, ...)
    augment : sequence of Augmentation
        Applied in this order, in training only.
    workers : int, optional
        Threads that read and augment; by default as many as there are CPUs. The bits do not depend on it.
    prefetch : int
        Batches that are made ahead, and so the bound of the memory that they take.
    mix : Mixture, optional
        `Mixup`, `CutMix`, or a function that changes examples and targets of a batch in place; in training only, after
        `augment`. Labels become rows of one 1, and sparse cross-entropy that of rows.

    Attributes
    ----------
    classes : int or None
        What labels are made rows of, when examples are mixed.
    """

    def __init__(self, shape: tuple[int, ...], targets: np.ndarray, augment: Sequence[Augmentation] = (),
                 workers: int | None = None, prefetch: int = 2, mix: Mixture | None = None):
        where = type(self).__name__
        self.shape = shape
        self.targets = targets
        self.augment = _augmentations(where, augment, shape)
        self.workers = available_threads() if workers is None else as_int(where, "workers", workers, minimum=1)
        self.prefetch = as_int(where, "prefetch", prefetch, minimum=1)
        self.mix = _mixture(where, mix, shape)
        self.classes: int | None = None
        self._items = np.arange(len(targets))

    @abstractmethod
    def read(self, item: int) -> np.ndarray:
        """Example number ``item``: `shape`, real numbers. Called from several threads at a time."""

    @abstractmethod
    def name(self, item: int) -> str:
        """What an error calls this example."""

    def __len__(self) -> int:
        return len(self._items)

    def name_at(self, place: int) -> str:
        """What an error calls the example at this place."""
        return self.name(int(self._items[place]))

    def is_nonfinite(self, place: int) -> bool:
        """Whether the example at this place, as it is read, holds NaN or infinity."""
        return not np.isfinite(np.asarray(self.read(int(self._items[place])), FLOAT32)).all()

    def draw_seed(self) -> int | None:
        """A seed for an epoch's augmentation, from the generator of ``cnnext.set_random_seed``; None without one."""
        return int(generator().integers(2**63)) if self.augment or self.mix is not None else None

    def batches(self, batch_size: int, order: np.ndarray | None = None, seed: int | None = None) -> Batches:
        """Batches in the given order of examples, or as they lie; the last may be smaller.

        Parameters
        ----------
        batch_size : int
        order : ndarray of int, optional
        seed : int, optional
            Of an epoch (`draw_seed`): an example's augmentation depends on it and on the example alone. None: no
            augmentation.

        Yields
        ------
        x : list of one float32 ndarray, shape (examples, ...)
        y : ndarray

        Raises
        ------
        Exception
            What `read` raises; of several, that of the first example in the order.
        ValueError
            If `read` or an augmentation gives another shape.
        RuntimeError
            If an augmentation or a mixture fails, or in a forked child, if the iteration began in its parent.
        """
        order = np.arange(len(self)) if order is None else order
        picks = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
        pid, stop = os.getpid(), Event()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="cnnext-data")
        ahead: deque[_Made] = deque()
        try:
            for pick in picks:
                ahead.append(self._submit(pool, pick, seed, stop))
                if len(ahead) > self.prefetch:
                    yield _finished(ahead.popleft(), pid)
            while ahead:
                yield _finished(ahead.popleft(), pid)
        finally:
            stop.set()
            if os.getpid() == pid:  # a forked child has no such threads, and locks that they held stay locked
                pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, pick: np.ndarray, seed: int | None, stop: Event) -> _Made:
        items = self._items[pick]
        parts = [slice(start, start + PER_TASK) for start in range(0, len(pick), PER_TASK)]
        mixed = seed is not None and self.mix is not None
        targets = self._rows(pick) if mixed else np.ascontiguousarray(self.targets[pick])
        made = _Made(np.empty((len(pick), *self.shape), FLOAT32), targets, items, len(parts) if mixed else 0)
        made.tasks = [pool.submit(self._make, made, part, seed, stop) for part in parts]
        return made

    def _rows(self, pick: np.ndarray) -> np.ndarray:
        """Targets that can be mixed, float32; labels as rows."""
        targets = self.targets[pick]
        if self.classes is None:
            if targets.dtype.kind != "f":
                rule = "be numbers or rows where examples are mixed; labels become rows in `fit`"
                raise ValueError(message(type(self).__name__, "targets", rule, targets))
            return targets.astype(FLOAT32)
        return (targets[..., np.newaxis] == np.arange(self.classes)).astype(FLOAT32)

    def _make(self, made: _Made, part: slice, seed: int | None, stop: Event) -> None:
        """Some examples of a batch; where they are the last ones, the mixture too."""
        self._fill(made.x[part], made.items[part], seed, stop)
        if made.is_last() and seed is not None and self.mix is not None:
            first = int(made.items[0])
            try:
                self.mix(made.x, made.y, _Streams().of(seed, MIXTURE + first))
            except Exception as error:
                raise RuntimeError(message(f"batch that begins with {self.name(first)}", repr(self.mix),
                                           "run without an error", f"{type(error).__name__}: {error}")) from error

    def _fill(self, batch: np.ndarray, items: np.ndarray, seed: int | None, stop: Event) -> None:
        streams = _Streams()
        for place, item in enumerate(items.tolist()):
            if stop.is_set():
                return
            example = np.asarray(self.read(item), FLOAT32)
            self._check_shape(item, "read", example)
            batch[place] = example if seed is None else self._augmented(item, example, streams.of(seed, item))

    def _augmented(self, item: int, example: np.ndarray, random: np.random.Generator) -> np.ndarray:
        for augmentation in self.augment:
            try:
                example = augmentation(example, random)
            except Exception as error:  # it may be the user's: whatever it is, the example is named
                raise RuntimeError(message(self.name(item), repr(augmentation), "run without an error",
                                           f"{type(error).__name__}: {error}")) from error
            self._check_shape(item, repr(augmentation), example)
        return example

    def _check_shape(self, item: int, step: str, example: np.ndarray) -> None:
        if np.shape(example) != self.shape:
            raise ValueError(message(self.name(item), step, f"give an array of shape {self.shape}", example))

    def split(self: Self, share: float) -> tuple[Self, Self]:
        """All but the last ``share`` of the examples, and those."""
        first = len(self) - int(len(self) * share)
        places = np.arange(len(self))
        return self._part(places[:first]), self._part(places[first:])

    def _part(self: Self, places: np.ndarray) -> Self:
        part = copy.copy(self)
        part._items, part.targets = self._items[places], self.targets[places]
        return part

    def with_targets(self: Self, targets: np.ndarray, classes: int | None = None) -> Self:
        """The same examples with other targets, as many; labels become rows of so many classes where examples are mixed."""
        other = copy.copy(self)
        other.classes = classes
        other.targets = check_targets(type(self).__name__, targets, len(self), "targets")
        return other

    def check(self, where: str, y: Any, inputs: Sequence[Value], argument: str = "x") -> None:
        """Whether a model can be trained on this.

        Raises
        ------
        ValueError
            If targets are given besides, the model has several inputs or another shape, or there is no example.
        """
        if y is not None:
            raise ValueError(message(where, "y", "be left out where x is a data source, which has targets", y))
        if len(inputs) != 1:
            raise ValueError(message(where, argument, f"be a list of {len(inputs)} arrays", type(self).__name__))
        shape = (0, *self.shape)  # of any number of examples
        if not matches(shape, inputs[0].shape):
            given = f"{type(self).__name__} of shape {shown(shape)}"
            raise ValueError(message(where, argument, f"have shape {shown(inputs[0].shape)}", given))
        if not len(self):
            raise ValueError(message(where, argument, "hold at least one example", type(self).__name__))


class Arrays(DataSource):
    """Arrays, as a data source: augmented while the engine trains.

    Parameters
    ----------
    x : array, shape (examples, ...); (examples, rows, columns, channels) where there are augmentations
        Real numbers. A ``numpy.memmap`` is read as it is needed.
    y : array, shape (examples, ...)
    augment, workers, prefetch, mix
        As of `DataSource`.

    Raises
    ------
    TypeError
        If they do not hold real numbers.
    ValueError
        If their lengths differ, or there is no example.

    Examples
    --------
    >>> data = Arrays(np.zeros((8, 28, 28, 1)), np.arange(8), augment=[RandomShift(2)])
    >>> net.fit(data, batch_size=4)  # doctest: +SKIP
    """

    def __init__(self, x: Any, y: Any, augment: Sequence[Augmentation] = (), workers: int | None = None,
                 prefetch: int = 2, mix: Mixture | None = None):
        self._x = as_array("Arrays", "x", x)
        if self._x.size == 0:
            raise ValueError(message("Arrays", "x", "hold at least one example", self._x))
        if self._x.ndim < 2:
            raise ValueError(message("Arrays", "x", "have shape (examples, ...)", self._x))
        super().__init__(self._x.shape[1:], check_targets("Arrays", y, len(self._x)), augment, workers, prefetch, mix)

    def read(self, item: int) -> np.ndarray:
        """Example number ``item``, not converted."""
        return self._x[item]

    def name(self, item: int) -> str:
        """Its place in the array."""
        return f"x[{item}]"


class _Streams:
    """One generator for any number of streams: to set the key is twenty times as fast as to make a generator.

    References
    ----------
    J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011: streams of different keys are independent.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(0)
        self._generator = np.random.Generator(self._bits)
        self._key, zeros = np.zeros(2, np.uint64), np.zeros(4, np.uint64)
        self._start: Any = {"bit_generator": "Philox", "state": {"counter": zeros, "key": self._key}, "buffer": zeros,
                            "buffer_pos": len(zeros), "has_uint32": 0, "uinteger": 0}

    def of(self, seed: int, item: int) -> np.random.Generator:
        """The generator at the start of a stream; until the next call."""
        self._key[:] = seed, item
        self._bits.state = self._start
        return self._generator


def _augmentations(where: str, augment: Sequence[Augmentation], shape: tuple[int, ...]) -> tuple[Augmentation, ...]:
    steps = tuple(augment) if isinstance(augment, Sequence) else (augment,)
    for index, step in enumerate(steps):
        if not callable(step) or isinstance(step, type):
            raise TypeError(message(where, f"augment[{index}]", "be an augmentation, such as RandomShift(2)", step))
    if steps and len(shape) != 3:
        raise ValueError(message(where, "augment", "be empty unless examples are (rows, columns, channels)", steps,
                                 f"examples {shape}"))
    return steps


def _mixture(where: str, mix: Any, shape: tuple[int, ...]) -> Mixture | None:
    if mix is not None and (not callable(mix) or isinstance(mix, type)):
        raise TypeError(message(where, "mix", "be a mixture, such as Mixup(0.2)", mix))
    if isinstance(mix, CutMix) and len(shape) != 3:
        raise ValueError(message(where, "mix", "be another unless examples are (rows, columns, channels)", mix,
                                 f"examples {shape}"))
    return mix


class _Made:
    """A batch that is being made.

    Parameters
    ----------
    x, y : ndarray
    items : ndarray of int
        Its examples.
    parts : int
        Tasks that have to be over before the examples are mixed; 0 where they are not.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, items: np.ndarray, parts: int):
        self.x, self.y, self.items = x, y, items
        self.tasks: list[Future[None]] = []
        self._left, self._lock = parts, Lock()

    def is_last(self) -> bool:
        """Whether the task that asks, when its part is made, is the last one."""
        with self._lock:
            self._left -= 1
            return self._left == 0


def _finished(made: _Made, pid: int) -> Batch:
    if os.getpid() != pid:
        raise RuntimeError(message("batches", "iterator", "be used in the process that began it", f"process {os.getpid()}"))
    for task in made.tasks:
        task.result()
    return [made.x], made.y
