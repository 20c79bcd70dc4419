"""Batches that a generator makes, in place of arrays or a data source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

from cnnext.errors import message
from cnnext.layers.attributes import as_int
from cnnext.training.data import Batch, Batches


def is_stream(x: Any) -> bool:
    """Whether this gives batches one after the other: a generator, or an object that can be iterated and is no array."""
    if hasattr(x, "__array__") or isinstance(x, (list, tuple, Mapping, Set, str, bytes)):
        return False
    return isinstance(x, (Iterator, Iterable)) or hasattr(x, "__getitem__") and hasattr(x, "__len__")


class Stream:
    """The batches of a generator, each checked when it comes.

    What ``iter`` turns into a new iterator (a list-like object, a data loader) begins anew in each epoch. What is an
    iterator itself, such as a generator, goes on where it is.

    Parameters
    ----------
    where, argument : str
        Of errors.
    source : iterable
    steps : int, optional
        Batches of an epoch; all that come, without it.
    batch_of : callable
        ``batch_of(where, item)`` checks what came and makes it a batch.
    """

    def __init__(self, where: str, argument: str, source: Any, steps: int | None,
                 batch_of: Callable[[str, Any], Batch]):
        self.where, self.argument = where, argument
        self.steps = steps
        self.goes_on = isinstance(source, Iterator)
        self._source = source
        self._batch_of = batch_of

    def draw_seed(self) -> int | None:
        """None: nothing is drawn at random here."""
        return None

    def check_epochs(self, epochs: int, argument: str) -> None:
        """Refuse a generator that would be used up in the first of several epochs."""
        if self.goes_on and self.steps is None and epochs > 1:
            rule = f"be given where {self.argument} is a generator and there are several epochs: it does not begin anew"
            raise ValueError(message(self.where, argument, rule, None))

    def batches(self, epoch: int | None = None, first: int = 0) -> Batches:
        """The batches of an epoch.

        Parameters
        ----------
        epoch : int, optional
            For errors.
        first : int
            Steps of it that are done: passed over, unless a generator goes on where it is.

        Raises
        ------
        ValueError
            If there is none, or less than ``steps``.
        ValueError, TypeError
            If one is no batch for the model; the error names it.
        """
        items, where = self._items(), self.where if epoch is None else f"{self.where}, epoch {epoch}"
        step = first if self.goes_on else 0
        try:
            while self.steps is None or step < self.steps:
                try:
                    item = next(items)
                except StopIteration:
                    self._check_enough(where, step)
                    return
                step += 1
                if step > first:
                    yield self._batch_of(f"{where}, batch {step}", item)
        finally:
            if not self.goes_on and hasattr(items, "close"):
                items.close()

    def _items(self) -> Iterator[Any]:
        if self.goes_on or hasattr(self._source, "__iter__"):
            return iter(self._source)
        return (self._source[i] for i in range(len(self._source)))

    def _check_enough(self, where: str, step: int) -> None:
        if self.steps is not None or not step:
            rule = "give a batch or more" if self.steps is None else f"give {self.steps} batches"
            raise ValueError(message(where, self.argument, rule, f"{step} batches"))


def as_steps(where: str, argument: str, steps: Any, x: Any) -> int | None:
    """The number of steps, which only a generator takes."""
    if steps is None:
        return None
    if not is_stream(x):
        raise ValueError(message(where, argument, "be None unless the data are a generator's", steps))
    return as_int(where, argument, steps, minimum=1)


def pair_of(where: str, item: Any) -> tuple[Any, Any]:
    """The examples and the targets of a batch."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(message(where, "batch", "be a pair (x, y)", _short(item)))
    return item[0], item[1]


def examples_of(item: Any) -> Any:
    """The examples of a batch of which only they are wanted: of a tuple (x, y) the first."""
    return item[0] if isinstance(item, tuple) and len(item) == 2 else item


def _short(item: Any) -> Any:
    return f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else item
