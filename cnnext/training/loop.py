"""Training: the graph of one step, the loop over batches and epochs, and evaluation."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.data.augment import CutMix
from cnnext.data.source import DataSource
from cnnext.errors import message
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import FLOAT32, INT64, Graph, Parameter, Shape, Value
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.attributes import as_int, as_number
from cnnext.threads import limited
from cnnext.training.callbacks import Callback, check_callbacks
from cnnext.training.checkpoint import Progress, TrainingState
from cnnext.training.data import Batch, Batches, Dataset, check_examples, check_targets
from cnnext.training.history import History, Means
from cnnext.training.initializers import generator
from cnnext.training.keeper import Keeper
from cnnext.training.losses import Loss, TargetError, get_loss
from cnnext.training.metrics import AnyMetric, ConfusionMetric, MetricFunction, get_metrics, in_order, measured
from cnnext.training.nonfinite import bad_parameter, first_nonfinite
from cnnext.training.optimizers import Optimizer, get_optimizer
from cnnext.training.regularizers import with_penalties
from cnnext.training.stream import Stream, as_steps, is_stream, pair_of

if TYPE_CHECKING:
    from cnnext.model import Model

Data = Dataset | DataSource | Stream

MAX_PLANS = 8
MAX_KEPT_BYTES = 1 << 28    # of a generator's batches that are kept beside a copy of the state
SNAPSHOT_EVERY = 32     # steps; a copy of the state, a few passes over the weights, then costs little beside them


@dataclass
class StepPlan:
    """A plan whose outputs are loss and predictions.

    Attributes
    ----------
    extra : list of str
        What the plan takes after the model's inputs: "target", "hyper", "seed".
    target_shape : tuple of int
    parameters : list of Parameter
        What a run may change: what the optimizer updates, and statistics that layers keep; nothing of frozen layers.
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
    metrics : list of str, Metric, ConfusionMetric or function
    checkpoint_activations : bool
        Keep few activations for the backward pass and compute the others again.

    Raises
    ------
    ValueError
        If a name is not known, the model has several outputs, or a metric means nothing for its output.
    """

    def __init__(self, model: Model, optimizer: str | Optimizer = "adam",
                 loss: str | Loss = "sparse_categorical_crossentropy",
                 metrics: Sequence[str | AnyMetric | MetricFunction] = (), checkpoint_activations: bool = False):
        if len(model.graph.outputs) != 1:
            raise ValueError(message("compile", "model", "have one output to be trained", len(model.graph.outputs)))
        self.model = model
        self.optimizer = get_optimizer(optimizer)
        self.loss = get_loss(loss)
        self.metrics = [m.for_output(self.loss, model.graph.outputs[0]) for m in get_metrics(metrics)]
        self.optimizer.check_groups(model.parameters)
        self.checkpoint_activations = bool(checkpoint_activations)
        self._plans: OrderedDict[Any, StepPlan] = OrderedDict()

    def fit(self, x: Any, y: Any = None, batch_size: int = 32, epochs: int = 1, shuffle: bool = True,
            validation_data: Any = None, verbose: int = 1, validation_split: float = 0.0,
            callbacks: Sequence[Callback] = (), checkpoint: str | os.PathLike[str] | None = None,
            checkpoint_every: int | None = None, resume: str | os.PathLike[str] | bool = False,
            steps_per_epoch: int | None = None, validation_steps: int | None = None) -> History:
        """Train on arrays, on a data source, or on the batches of a generator.

        Parameters
        ----------
        x : array, shape (samples, ...), or a list of them for a model of several inputs, or a DataSource, or a generator
            Real numbers; batches are converted to float32, values are not scaled. A generator, or another object that can
            be iterated, gives pairs (x, y) of any number of samples. A generator goes on in the next epoch, and in a
            training that is resumed, where it is; other objects are iterated anew.
        y : array, shape (samples, ...)
            Labels (integers) or values, as the loss wants them; left out where ``x`` is a data source or a generator.
        batch_size, epochs : int
            At least 1; the last batch of an epoch may be smaller. A generator makes its batches itself.
        shuffle : bool
            A new order in every epoch, from the generator of ``cnnext.set_random_seed``; not of a generator's batches.
        validation_data : (x, y), DataSource or generator, optional
            Evaluated after every epoch.
        verbose : int
            0: silent. 1: a line per epoch, and while it runs a bar where ``tqdm`` is installed and stderr a terminal.
        validation_split : float
            In [0, 1): this share of the data, taken from its end, is the validation data.
        callbacks : list of Callback
            Called in this order.
        checkpoint : path, optional
            A folder of its own; the state of the training is saved in it, atomically, after every epoch.
        checkpoint_every : int, optional
            Save after every so many steps of an epoch too.
        resume : path or bool
            The folder of a checkpoint from which the training goes on, bit-equal to one that was never interrupted, when
            model, optimizer, data and arguments are the same. True: the folder ``checkpoint``, where one has been saved
            there. ``epochs`` counts all epochs.
        steps_per_epoch, validation_steps : int, optional
            Batches that a generator is asked for in an epoch, and after it; by default all that it has.

        Returns
        -------
        History
            Of all epochs, also those before the checkpoint.

        Raises
        ------
        ValueError, TypeError
            If the data does not fit the model or the loss, or a checkpoint the model, the optimizer or the data; nothing
            is changed then.
        FileNotFoundError, ModelFileError
            If there is no checkpoint in the folder ``resume``, or it is damaged; nothing is changed then.
        OSError
            If a checkpoint cannot be saved; the one before stays whole.
        FloatingPointError
            If the loss is not finite. The weights are then those before the step that made it so.
        KeyboardInterrupt
            After Ctrl-C, at the end of the step that runs (a second Ctrl-C does not wait for it), with the weights after
            it; the checkpoint is saved before.
        """
        batch_size = as_int("fit", "batch_size", batch_size, minimum=1)
        epochs = as_int("fit", "epochs", epochs, minimum=1)
        data = self._data("fit", x, y, steps=steps_per_epoch, steps_argument="steps_per_epoch")
        self._check_mixture(data)
        validation = self._validation(validation_data, validation_steps)
        data, validation = self._split(data, validation, validation_split)
        for stream, argument in ((data, "steps_per_epoch"), (validation, "validation_steps")):
            if isinstance(stream, Stream):
                stream.check_epochs(epochs, argument)
        keeper = Keeper(self, check_callbacks(callbacks), checkpoint, checkpoint_every)
        examples = 0 if isinstance(data, Stream) else len(data)
        progress = Progress(examples, batch_size, bool(shuffle and examples))
        self.model.stop_training = False
        with keeper.running(progress, resume) as progress:
            while progress.epoch <= epochs and not self.model.stop_training:
                self._fit_epoch(data, validation, progress, f"epoch {progress.epoch}/{epochs}", verbose, keeper)
            self._take_averages()
        return progress.history

    def _check_mixture(self, data: Data) -> None:
        """Whether the loss takes the targets that a data source mixes."""
        mix = data.mix if isinstance(data, DataSource) else None
        if mix is None:
            return
        if self.loss.for_mixtures() is None:
            raise ValueError(message("fit", "x", f"not mix its examples where the loss is {self.loss}", mix))
        if isinstance(mix, CutMix) and len(self.model.graph.outputs[0].shape) != 2:
            rule = "be mixed by Mixup, not CutMix, where an example has more than one row of targets"
            raise ValueError(message("fit", "x", rule, mix, f"predictions {self.model.graph.outputs[0].shape}"))

    def _validation(self, validation_data: Any, steps: int | None) -> Data | None:
        if validation_data is None:
            as_steps("fit", "validation_steps", steps, None)
            return None
        return self._data("fit", *_pair(validation_data), "validation_data ", steps, "validation_steps")

    def _split(self, data: Data, validation: Data | None, validation_split: float) -> tuple[Data, Data | None]:
        """The data to train on, and that to validate on."""
        share = as_number("fit", "validation_split", validation_split, minimum=0, below=1)
        if not share:
            return data, validation
        if validation is not None:
            raise ValueError(message("fit", "validation_split", "be 0 where validation_data is given", share))
        if isinstance(data, Stream):
            raise ValueError(message("fit", "validation_split", "be 0 where x is a generator", share))
        first, last = data.split(share)
        if not len(first) or not len(last):
            raise ValueError(message("fit", "validation_split", f"leave examples on both sides of {len(data)}", share))
        return first, last

    def _fit_epoch(self, data: Data, validation: Data | None, progress: Progress,
                   title: str, verbose: int, keeper: Keeper) -> None:
        """The rest of an epoch, its validation, and what follows it."""
        start, first = time.perf_counter(), progress.means.weight
        values = self._train_epoch(data, progress, title, verbose, keeper)
        seconds, count = time.perf_counter() - start, progress.means.weight
        rate = f"{(count - first) / max(seconds, 1e-9):,.0f} images/s"
        with self.averaged():
            if validation is not None:
                values |= {f"val_{key}": v for key, v in self._evaluate(validation, progress.batch_size).items()}
            if verbose:
                print(f"{title}  {_shown(values)}  {rate}  {seconds:.1f} s", flush=True)
            epoch = progress.epoch
            progress.end_epoch(values)
            keeper.epoch_ended(epoch, values)
        keeper.between_epochs(progress)

    def averages(self) -> dict[Parameter, Parameter]:
        """What the optimizer keeps as averages of the weights that it updates."""
        return self.optimizer.averages(self.model.trainable_parameters)

    def _take_averages(self) -> None:
        for p, average in self.averages().items():
            p.assign(average.data)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts, the averages that the optimizer keeps, if it does, are the weights."""
        weights = {p: p.data.copy() for p in self.averages()}
        self._take_averages()
        try:
            yield
        finally:
            for p, array in weights.items():
                p.assign(array)

    def _train_epoch(self, data: Data, progress: Progress, title: str, verbose: int,
                     keeper: Keeper) -> dict[str, float]:
        if not progress.step:
            progress.order = generator().permutation(progress.examples) if progress.shuffle else None
            progress.seed = data.draw_seed()
        bar = _progress_bar(title, data, progress) if verbose else None
        snapshot: _Snapshot | None = None
        batches = _batches(data, progress, progress.step)
        try:
            for x, y in batches:
                if snapshot is None or snapshot.is_old(progress, self.optimizer) and not bad_parameter(self.model):
                    snapshot = None     # its memory is free before the next one takes as much
                    snapshot = _Snapshot(TrainingState.of(self), progress.step)
                if isinstance(data, Stream):
                    snapshot.keep(x, y)
                loss, predictions = self.step(x, y)
                if not math.isfinite(loss):
                    raise self._not_finite(data, progress, loss, snapshot, x, y)
                values = self._measure(loss, y, predictions, progress.means)
                progress.learning_rate = self.optimizer.latest_rate
                progress.step += 1
                if bar is not None:
                    bar.set_postfix_str(_shown(self._values(progress.means)), refresh=False)
                    bar.update(1 if isinstance(data, Stream) else len(y))
                keeper.batch_ended(values, progress)
        finally:
            batches.close()  # at once: a traceback that somebody keeps would keep its workers
            if bar is not None:
                bar.close()
        return self._end_of_pass(progress.means)

    def _not_finite(self, data: Data, progress: Progress, loss: float, snapshot: _Snapshot,
                    x: Sequence[np.ndarray], y: np.ndarray) -> FloatingPointError:
        """The error for a loss that is not finite; the trainer goes back to the state before what made it so."""
        rule = "stay finite; a smaller learning rate, or inputs scaled to about 1, may help"
        text = message("fit", "loss", rule, loss, f"epoch {progress.epoch}, step {progress.step + 1}")
        before = snapshot.state
        before.restore(self)
        with closing(snapshot.batches(data, progress)) as repeated:
            for step, batch in enumerate(repeated, start=snapshot.step + 1):
                self.step(*batch)
                if bad := bad_parameter(self.model):
                    before.restore(self)
                    return FloatingPointError(f"{text} Parameter {bad} after step {step}, whose loss was finite: its "
                                              "gradient was too large. The weights are those before that step.")
                before = TrainingState.of(self)
        try:
            place = first_nonfinite(self, x, y, lambda i: _example_name(data, progress, i))
        finally:
            before.restore(self)
        return FloatingPointError(f"{text} {place} The weights are those before that step.")

    def train_on_batch(self, x: Any, y: Any) -> dict[str, float]:
        """Train on one batch; arguments and errors as for ``fit``. Loss and metrics are those before the update."""
        batch, targets = self._batch("train_on_batch", x, y)
        loss, predictions = self.step(batch, targets)
        return self._measure(loss, targets, predictions, Means())

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
        built = self._plan([a.shape for a in x], True, y.dtype)
        try:
            loss, predictions = self._run(built, x, y)
        finally:
            # Also after Ctrl-C, which Python raises when the run is over: the weights have changed, and packed copies
            # of them are stale.
            self.optimizer.count()
            for parameter in built.parameters:
                parameter.changed()
        return loss, predictions

    def evaluate(self, x: Any, y: Any = None, batch_size: int = 32, verbose: int = 0,
                 steps: int | None = None) -> dict[str, float]:
        """Loss and metrics in inference mode; arguments and errors as for ``fit``, ``steps`` as ``steps_per_epoch``."""
        batch_size = as_int("evaluate", "batch_size", batch_size, minimum=1)
        values = self._evaluate(self._data("evaluate", x, y, steps=steps), batch_size)
        if verbose:
            print(f"evaluate  {_shown(values)}", flush=True)
        return values

    def _evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        means = Means()
        with closing(data.batches() if isinstance(data, Stream) else data.batches(batch_size)) as batches:
            for x, y in batches:
                loss, predictions = self._run(self._plan([a.shape for a in x], False, y.dtype), x, y)
                self._measure(loss, y, predictions, means)
        return self._end_of_pass(means)

    def _measure(self, loss: float, y: np.ndarray, predictions: np.ndarray, into: Means) -> dict[str, float]:
        """Loss and metrics of a batch; they are added to the means of the pass."""
        values, counts = measured(self.metrics, y, predictions)
        into.add({"loss": loss, **values}, len(y), counts)
        return {"loss": loss, **in_order(self.metrics, values, counts)}

    def _values(self, means: Means) -> dict[str, float]:
        found = means.values()
        return {"loss": found["loss"], **in_order(self.metrics, found, means.counts)}

    def _end_of_pass(self, means: Means) -> dict[str, float]:
        """Loss and metrics of all batches."""
        for metric in self.metrics:
            if isinstance(metric, ConfusionMetric):
                metric.matrix = means.counts[metric.counted]
        return self._values(means)

    def _data(self, where: str, x: Any, y: Any, prefix: str = "", steps: int | None = None,
              steps_argument: str = "steps") -> Data:
        steps = as_steps(where, steps_argument, steps, x)
        if isinstance(x, DataSource):
            x.check(where, y, self.model.graph.inputs, f"{prefix}x")
            prediction = self.model.graph.outputs[0].shape
            try:
                targets = self.loss.check_targets(where, x.targets, prediction, f"{prefix}x.targets")
            except TargetError as error:
                raise ValueError(f"{error} It is the target of {x.name_at(error.place)}.") from None
            classes = prediction[-1] if self.loss.target_dtype == INT64 else None
            return x.with_targets(targets.astype(self.loss.target_dtype), classes)
        if is_stream(x):
            if y is not None:
                raise ValueError(message(where, f"{prefix}y", "be left out where x is a generator, which gives both", y))

            def batch_of(place: str, item: Any) -> Batch:
                return self._batch(place, *pair_of(place, item), prefix)

            return Stream(where, f"{prefix}x", x, steps, batch_of)
        return self._dataset(where, x, y, prefix)

    def _dataset(self, where: str, x: Any, y: Any, prefix: str = "") -> Dataset:
        arrays = check_examples(where, x, self.model.graph.inputs, f"{prefix}x")
        targets = check_targets(where, y, len(arrays[0]), f"{prefix}y")
        targets = self.loss.check_targets(where, targets, self.model.graph.outputs[0].shape, f"{prefix}y")
        return Dataset(arrays, targets, self.loss.target_dtype)

    def _batch(self, where: str, x: Any, y: Any, prefix: str = "") -> Batch:
        data = self._dataset(where, x, y, prefix)
        return next(data.batches(len(data)))

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

    def loss_for(self, targets: np.dtype) -> Loss:
        """The loss for targets of this dtype: that of rows where labels have become rows, since they were mixed."""
        mixed = None if targets == self.loss.target_dtype else self.loss.for_mixtures()
        return mixed or self.loss

    def _plan(self, shapes: Sequence[Shape], training: bool, targets: np.dtype | None = None) -> StepPlan:
        """The plan of a step; ``targets`` is their dtype where it is not the loss's."""
        loss = self.loss if targets is None else self.loss_for(targets)
        key = (tuple(shapes), training, loss.target_dtype, _treatment(self.model.graph), self.model.exact, self.model.tune)
        if key not in self._plans:
            self._plans[key] = self.build(shapes, training, self.checkpoint_activations, loss)
            while len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def build(self, shapes: Sequence[Shape], training: bool, checkpoint_activations: bool = False,
              loss_for_targets: Loss | None = None) -> StepPlan:
        """The plan of the model's graph with the loss, and in training the gradients and the updates.

        Parameters
        ----------
        shapes : list of tuple of int
            Of the model's inputs.
        training : bool
        checkpoint_activations : bool
        loss_for_targets : Loss, optional
            In place of the trainer's.
        """
        g = prepare(self.model.graph, shapes, training)
        (prediction,) = g.outputs
        extra = {g.seed: "seed"} if g.seed is not None else {}
        rule = loss_for_targets or self.loss
        target = Value(rule.target_shape(prediction.shape), rule.target_dtype, "target")
        g.inputs.append(target)
        extra[target] = "target"
        loss = self.loss_of(g, prediction, target)
        g.outputs = [loss, prediction]
        if training:
            hyper = Value((self.optimizer.n_hyper,), FLOAT32, "hyper")
            g.inputs.append(hyper)
            extra[hyper] = "hyper"
            self._append_updates(g, loss, hyper)
        g.order()
        names = [extra[v] for v in g.inputs[len(shapes) :]]
        plan = Plan(optimize(g, checkpoint_activations), default_level(), exact=self.model.exact,
                    tuner=self.model._runner.tuner())
        return StepPlan(plan, names, target.shape, [p for p in self.model.parameters if p not in g.frozen])

    def loss_of(self, g: Graph, prediction: Value, target: Value) -> Value:
        """Append the loss, with the penalties on the parameters that are trained."""
        return with_penalties(g, self.loss_for(target.dtype).append(g, prediction, target), self.model.trainable_parameters)

    def _append_updates(self, g: Graph, loss: Value, hyper: Value) -> None:
        # A parameter that several nodes read is several values: their gradients are added.
        values: dict[Parameter, dict[Value, None]] = {}
        trained = set(self.model.trainable_parameters)
        for node in g.nodes:
            for value in node.reads:
                if value.parameter in trained:
                    values.setdefault(value.parameter, {})[value] = None
        diffs = add_gradients(g, [loss], [v for group in values.values() for v in group])
        sums = {next(iter(group)): _sum(g, partials) for group in values.values()
                if (partials := [diffs[v] for v in group if v in diffs])}
        self.optimizer.append(g, sums, hyper)
        if not g.effects:
            raise ValueError(message("fit", "model", "have a trainable parameter that the loss depends on",
                                     self.model.name))


def _treatment(graph: Graph) -> tuple[Any, ...]:
    """What layers and parameters are trainable, with which penalties: on it depends what a step computes."""
    return tuple((node.layer.trainable, *((v.parameter.trainable, v.parameter.regularizer) for v in node.reads
                                          if v.parameter is not None)) for node in graph.nodes)


def _sum(g: Graph, values: list[Value]) -> Value:
    from cnnext.layers.elementwise import add

    return values[0] if len(values) == 1 else add(g, *values)


@dataclass
class _Snapshot:
    """The state before a step of an epoch, from which later steps can be repeated with the same bits."""

    state: TrainingState
    step: int
    kept: list[Batch] = field(default_factory=list)     # since then, where they cannot be made again

    def is_old(self, progress: Progress, optimizer: Optimizer) -> bool:
        """Whether many steps, or a change of the learning rate that repeating would not make, came since."""
        changed = optimizer.schedule is None and optimizer.learning_rate != self.state.learning_rate
        return changed or progress.step - self.step >= SNAPSHOT_EVERY or self._kept_bytes() > MAX_KEPT_BYTES

    def _kept_bytes(self) -> int:
        return sum(a.nbytes for x, y in self.kept for a in (*x, y))

    def keep(self, x: Sequence[np.ndarray], y: np.ndarray) -> None:
        """Keep a copy of a batch: a generator may use its arrays again."""
        self.kept.append(([a.copy() for a in x], y.copy()))

    def batches(self, data: Data, progress: Progress) -> Batches:
        """Those of the steps since, without the one that runs."""
        if isinstance(data, Stream):
            return (batch for batch in self.kept[:-1])
        return _batches(data, progress, self.step, progress.step)


def _batches(data: Data, progress: Progress, first: int, last: int | None = None) -> Batches:
    """The steps [first, last) of an epoch, or all from the first on."""
    if isinstance(data, Stream):
        return data.batches(progress.epoch, first)
    if not first and last is None:
        return data.batches(progress.batch_size, progress.order, progress.seed)
    order = np.arange(len(data)) if progress.order is None else progress.order
    end = None if last is None else last * progress.batch_size
    return data.batches(progress.batch_size, order[first * progress.batch_size : end], progress.seed)


def _example_name(data: Data, progress: Progress, i: int) -> str:
    """What an error calls example i of the batch of the step that runs."""
    if isinstance(data, Stream):
        return f"x[{i}] of batch {progress.step + 1}"
    first = progress.step * progress.batch_size
    order = np.arange(len(data)) if progress.order is None else progress.order
    batch = order[first : first + progress.batch_size].tolist()
    if isinstance(data, DataSource) and data.mix is not None:       # it may have come from another one
        return next((data.name_at(place) for place in batch if data.is_nonfinite(place)),
                    f"the mixture with {data.name_at(batch[i])}")
    return data.name_at(batch[i])


def _pair(data: Any) -> tuple[Any, Any]:
    if isinstance(data, DataSource) or is_stream(data):
        return data, None
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(message("fit", "validation_data", "be a pair (x, y)", data))
    return data[0], data[1]


def _shown(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def _progress_bar(title: str, data: Data, progress: Progress) -> Any:
    """A tqdm bar that counts images, or a generator's batches; None without tqdm or without a terminal to draw it on."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    if isinstance(data, Stream):
        return tqdm(total=data.steps, desc=title, unit=" batches", leave=False, initial=progress.step)
    bar = tqdm(total=len(data), desc=title, unit=" images", leave=False)
    if progress.step:
        bar.update(progress.means.weight)
    return bar
