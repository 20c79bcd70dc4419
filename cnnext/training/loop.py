"""Training: the graph of one step, the loop over batches and epochs, and evaluation."""

from __future__ import annotations

import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.data.source import DataSource
from cnnext.errors import message
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import FLOAT32, Graph, Parameter, Shape, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.attributes import as_int, as_number
from cnnext.threads import limited
from cnnext.training.data import Dataset, check_examples, check_targets
from cnnext.training.initializers import generator
from cnnext.training.losses import Loss, get_loss
from cnnext.training.metrics import Metric, MetricFunction, get_metrics
from cnnext.training.optimizers import Optimizer, get_optimizer

if TYPE_CHECKING:
    from cnnext.model import Model

MAX_PLANS = 8


@dataclass
class History:
    """What ``fit`` returns.

    Attributes
    ----------
    history : dict of str to list of float
        Loss and metrics, one value per epoch: means over the epoch's steps while the weights changed, and, under
        ``val_...``, on the validation data after the epoch.
    epochs : list of int
        Numbers of the epochs, from 1.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)

    def append(self, values: dict[str, float]) -> None:
        """Add an epoch."""
        self.epochs.append(len(self.epochs) + 1)
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)


@dataclass
class StepPlan:
    """A plan whose outputs are loss and predictions.

    Attributes
    ----------
    extra : list of str
        What the plan takes after the model's inputs: "target", "hyper", "seed".
    target_shape : tuple of int
    parameters : list of Parameter
        What a run may change: what the optimizer updates, and statistics that layers keep.
    """

    plan: Plan
    extra: list[str]
    target_shape: Shape
    parameters: list[Parameter]


class Trainer:
    """A model with an optimizer, a loss and metrics.

    Parameters
    ----------
    model : Model
        With one output.
    optimizer : str or Optimizer
    loss : str or Loss
    metrics : list of str, Metric or function

    Raises
    ------
    ValueError
        If a name is not known or the model has several outputs.
    """

    def __init__(self, model: Model, optimizer: str | Optimizer = "adam",
                 loss: str | Loss = "sparse_categorical_crossentropy",
                 metrics: Sequence[str | Metric | MetricFunction] = ()):
        if len(model.graph.outputs) != 1:
            raise ValueError(message("compile", "model", "have one output to be trained", len(model.graph.outputs)))
        self.model = model
        self.optimizer = get_optimizer(optimizer)
        self.loss = get_loss(loss)
        self.metrics = get_metrics(metrics)
        self._plans: OrderedDict[Any, StepPlan] = OrderedDict()

    def fit(self, x: Any, y: Any = None, batch_size: int = 32, epochs: int = 1, shuffle: bool = True,
            validation_data: tuple[Any, Any] | DataSource | None = None, verbose: int = 1,
            validation_split: float = 0.0) -> History:
        """Train on arrays, or on a data source.

        Parameters
        ----------
        x : array, shape (samples, ...), or a list of them for a model of several inputs, or a DataSource
            Real numbers; batches are converted to float32, values are not scaled.
        y : array, shape (samples, ...)
            Labels (integers) or values, as the loss wants them; left out where ``x`` is a data source.
        batch_size, epochs : int
            At least 1; the last batch of an epoch may be smaller.
        shuffle : bool
            A new order in every epoch, from the generator of ``cnnext.set_random_seed``.
        validation_data : (x, y) or DataSource, optional
            Evaluated after every epoch.
        verbose : int
            0: silent. 1: a line per epoch, and while it runs a bar where ``tqdm`` is installed and stderr a terminal.
        validation_split : float
            In [0, 1): this share of the data, taken from its end, is the validation data.

        Returns
        -------
        History

        Raises
        ------
        ValueError, TypeError
            If the data does not fit the model or the loss; nothing is changed then.
        FloatingPointError
            If the loss is not finite. The weights are those after that step, as after Ctrl-C.
        """
        batch_size = as_int("fit", "batch_size", batch_size, minimum=1)
        epochs = as_int("fit", "epochs", epochs, minimum=1)
        share = as_number("fit", "validation_split", validation_split, minimum=0, below=1)
        data, validation = self._data("fit", x, y), None
        if validation_data is not None:
            if share:
                raise ValueError(message("fit", "validation_split", "be 0 where validation_data is given", share))
            validation = self._data("fit", *_pair(validation_data), "validation_data ")
        elif share:
            data, validation = data.split(share)
            if not len(data) or not len(validation):
                raise ValueError(message("fit", "validation_split", f"leave examples on both sides of {len(x)}", share))
        history = History()
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            values = self._train_epoch(data, batch_size, shuffle, f"epoch {epoch}/{epochs}", epoch, verbose)
            seconds = time.perf_counter() - start
            if validation is not None:
                values |= {f"val_{key}": v for key, v in self._evaluate(validation, batch_size).items()}
            history.append(values)
            if verbose:
                rate = f"{len(data) / max(seconds, 1e-9):,.0f} images/s"
                print(f"epoch {epoch}/{epochs}  {_shown(values)}  {rate}  {seconds:.1f} s", flush=True)
        return history

    def _train_epoch(self, data: Dataset | DataSource, batch_size: int, shuffle: bool, title: str, epoch: int,
                     verbose: int) -> dict[str, float]:
        order = generator().permutation(len(data)) if shuffle else None
        means = _Means()
        bar = _progress_bar(title, len(data)) if verbose else None
        batches = data.batches(batch_size, order, training=True)
        try:
            for step, (x, y) in enumerate(batches, start=1):
                loss, predictions = self.step(x, y)
                if not math.isfinite(loss):
                    rule = "stay finite; a smaller learning rate, or inputs scaled to about 1, may help"
                    raise FloatingPointError(message("fit", "loss", rule, loss, f"epoch {epoch}, step {step}"))
                means.add(self._values(loss, y, predictions), len(y))
                if bar is not None:
                    bar.set_postfix_str(_shown(means.values()), refresh=False)
                    bar.update(len(y))
        finally:
            batches.close()  # at once: a traceback that somebody keeps would keep its workers
            if bar is not None:
                bar.close()
        return means.values()

    def train_on_batch(self, x: Any, y: Any) -> dict[str, float]:
        """Train on one batch; arguments and errors as for ``fit``. Loss and metrics are those before the update."""
        data = self._data("train_on_batch", x, y)
        (batch, targets), = data.batches(len(data))
        loss, predictions = self.step(batch, targets)
        return self._values(loss, targets, predictions)

    def step(self, x: Sequence[np.ndarray], y: np.ndarray) -> tuple[float, np.ndarray]:
        """Train on one batch.

        Parameters
        ----------
        x : list of float32 ndarray, C contiguous
        y : ndarray of the loss's dtype, C contiguous

        Returns
        -------
        loss : float
            Before the update.
        predictions : ndarray
        """
        built = self._plan([a.shape for a in x], training=True)
        try:
            loss, predictions = self._run(built, x, y)
        finally:
            # Also after Ctrl-C, which Python raises when the run is over: the weights have changed, and packed copies
            # of them are stale.
            self.optimizer.steps += 1
            for parameter in built.parameters:
                parameter.changed()
        return loss, predictions

    def evaluate(self, x: Any, y: Any = None, batch_size: int = 32, verbose: int = 0) -> dict[str, float]:
        """Loss and metrics on arrays, in inference mode; arguments and errors as for ``fit``."""
        batch_size = as_int("evaluate", "batch_size", batch_size, minimum=1)
        values = self._evaluate(self._data("evaluate", x, y), batch_size)
        if verbose:
            print(f"evaluate  {_shown(values)}", flush=True)
        return values

    def _evaluate(self, data: Dataset | DataSource, batch_size: int) -> dict[str, float]:
        means = _Means()
        with closing(data.batches(batch_size)) as batches:
            for x, y in batches:
                loss, predictions = self._run(self._plan([a.shape for a in x], training=False), x, y)
                means.add(self._values(loss, y, predictions), len(y))
        return means.values()

    def _values(self, loss: float, y: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        return {"loss": loss, **{m.name: m(y, predictions) for m in self.metrics}}

    def _data(self, where: str, x: Any, y: Any, prefix: str = "") -> Dataset | DataSource:
        if isinstance(x, DataSource):
            x.check(where, y, self.model.graph.inputs, f"{prefix}x")
            targets = self.loss.check_targets(where, x.targets, self.model.graph.outputs[0].shape, f"{prefix}x.targets")
            return x.with_targets(targets.astype(self.loss.target_dtype))
        arrays = check_examples(where, x, self.model.graph.inputs, f"{prefix}x")
        targets = check_targets(where, y, len(arrays[0]), f"{prefix}y")
        targets = self.loss.check_targets(where, targets, self.model.graph.outputs[0].shape, f"{prefix}y")
        return Dataset(arrays, targets, self.loss.target_dtype)

    def _run(self, built: StepPlan, x: Sequence[np.ndarray], y: np.ndarray) -> tuple[float, np.ndarray]:
        if y.shape != built.target_shape:
            rule = f"have shape {built.target_shape} in a batch"
            raise ValueError(message(f"model {self.model.name!r}", "y", rule, y))
        feeds: dict[str, Callable[[], np.ndarray]] = {
            "target": lambda: y,
            "hyper": self.optimizer.hyper,
            "seed": lambda: generator().integers(0, 2**63 - 1, 1, np.int64),
        }
        inputs = [*x, *(feeds[name]() for name in built.extra)]
        loss, predictions = built.plan.run(inputs, limited(self.model.num_threads))
        return float(loss[0]), predictions

    def _plan(self, shapes: Sequence[Shape], training: bool) -> StepPlan:
        trainable = tuple(p.trainable for p in self.model.graph.parameters()) if training else ()
        key = (tuple(shapes), training, trainable, self.model.exact, self.model.tune)
        if key not in self._plans:
            self._plans[key] = self._build(shapes, training)
            while len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def _build(self, shapes: Sequence[Shape], training: bool) -> StepPlan:
        """The model's graph, then the loss, and in training the gradients and the updates."""
        g = prepare(self.model.graph, shapes, training)
        (prediction,) = g.outputs
        extra = {g.seed: "seed"} if g.seed is not None else {}
        target = Value(self.loss.target_shape(prediction.shape), self.loss.target_dtype, "target")
        g.inputs.append(target)
        extra[target] = "target"
        loss = self.loss.append(g, prediction, target)
        g.outputs = [loss, prediction]
        if training:
            hyper = Value((self.optimizer.n_hyper,), FLOAT32, "hyper")
            g.inputs.append(hyper)
            extra[hyper] = "hyper"
            self._append_updates(g, loss, hyper)
        g.order()
        names = [extra[v] for v in g.inputs[len(shapes) :]]
        plan = Plan(optimize(g), default_level(), exact=self.model.exact, tuner=self.model._runner.tuner())
        return StepPlan(plan, names, target.shape, self.model.parameters)

    def _append_updates(self, g: Graph, loss: Value, hyper: Value) -> None:
        # A parameter that several nodes read is several values: their gradients are added.
        values: dict[Parameter, dict[Value, None]] = {}
        for node in g.nodes:
            for value in node.reads:
                if value.parameter is not None and value.parameter.trainable:
                    values.setdefault(value.parameter, {})[value] = None
        diffs = add_gradients(g, [loss], [v for group in values.values() for v in group])
        sums = {next(iter(group)): _sum(g, partials) for group in values.values()
                if (partials := [diffs[v] for v in group if v in diffs])}
        for weights, diff in zip(sums, self.optimizer.clipped(g, list(sums.values())), strict=True):
            self.optimizer.append(g, weights, diff, hyper)
        if not g.effects:
            raise ValueError(message("fit", "model", "have a trainable parameter that the loss depends on",
                                     self.model.name))


def _sum(g: Graph, values: list[Value]) -> Value:
    from cnnext.layers.elementwise import add

    return values[0] if len(values) == 1 else add(g, *values)


class _Means:
    """Means over batches, each weighted by its size."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weight = 0

    def add(self, values: dict[str, float], weight: int) -> None:
        self._weight += weight
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * value

    def values(self) -> dict[str, float]:
        return {name: total / self._weight for name, total in self._sums.items()}


def _pair(data: Any) -> tuple[Any, Any]:
    if isinstance(data, DataSource):
        return data, None
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(message("fit", "validation_data", "be a pair (x, y)", data))
    return data[0], data[1]


def _shown(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def _progress_bar(title: str, n: int) -> Any:
    """A tqdm bar that counts images, or None without tqdm or without a terminal to draw it on."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=n, desc=title, unit=" images", leave=False)
