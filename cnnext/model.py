"""``Model`` and ``Sequential``: a graph with weights, and what people do with it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import Graph, Parameter, Value, ancestors
from cnnext.graph.plan import Plan
from cnnext.graph.runner import Runner
from cnnext.layers.attributes import as_int
from cnnext.layers.input import Input
from cnnext.layers.layer import Layer
from cnnext.threads import resolve_threads

if TYPE_CHECKING:
    from cnnext.data.source import DataSource
    from cnnext.training.callbacks import Callback
    from cnnext.training.history import History
    from cnnext.training.loop import Trainer


class Model:
    """A network from inputs to outputs.

    Parameters
    ----------
    inputs, outputs : Value or list of Value
        What ``cnnext.Input`` made, and what layers made of it.
    name : str, optional
    num_threads : int, optional
        Workers; by default what the machine, the container and ``OMP_NUM_THREADS`` allow. Results do not depend on it.
    exact : bool
        Add sums up as they are defined. By default convolutions may be computed by faster algorithms (Winograd), within
        1e-4 of the largest magnitude.
    tune : bool
        Time the algorithms there are for each convolution when a plan is made, instead of estimating them, and remember the
        times in the user's cache folder (``cnnext.tuning``; ``CNNEXT_CACHE``). Results then depend on that file, which
        chooses the algorithms, but not on the number of threads.

    Examples
    --------
    >>> x = cx.Input((224, 224, 3))
    >>> y = cx.Conv2D(64, 7, strides=2, padding="same", activation="relu")(x)
    >>> net = cx.Model(x, cx.Dense(10)(cx.GlobalAvgPool2D()(y)))
    """

    def __init__(self, inputs: Value | Sequence[Value], outputs: Value | Sequence[Value], name: str = "model",
                 num_threads: int | None = None, exact: bool = False, tune: bool = False):
        self.name = name
        ins, outs = _values(name, "inputs", inputs), _values(name, "outputs", outputs)
        self.graph = Graph(ins, outs, ancestors(outs))
        self._check_graph()
        self._runner = Runner(self.graph, num_threads, exact=exact, tune=tune)
        self._trainer: Trainer | None = None
        self.metadata: dict[str, str] = {}
        self.optimizer: Any = None
        self.loss: Any = None
        self.metrics: list[Any] = []
        self.stop_training = False

    def _check_graph(self) -> None:
        known = set(self.graph.inputs)
        if len(known) != len(self.graph.inputs):
            raise ValueError(message(f"model {self.name!r}", "inputs", "differ from each other", self.graph.inputs))
        for node in self.graph.nodes:
            for value in node.inputs:
                if value.is_source and not value.is_persistent and value not in known:
                    raise ValueError(message(f"model {self.name!r}", "inputs",
                                             f"contain every Input that the outputs depend on; {value.name!r} is missing",
                                             [v.name for v in self.graph.inputs]))
        owners: dict[str, Layer] = {}
        for layer in self.layers:
            if owners.setdefault(layer.name, layer) is not layer:
                raise ValueError(message(f"model {self.name!r}", "name", "be different for each layer", layer.name))

    @property
    def layers(self) -> list[Layer]:
        """The layers in order, each once."""
        return list(dict.fromkeys(node.layer for node in self.graph.nodes))

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters in the order of the layers, each once."""
        return self.graph.parameters()

    @property
    def trainable_parameters(self) -> list[Parameter]:
        """The parameters that training updates: not those of frozen layers, nor statistics that layers keep."""
        frozen = self.graph.frozen_parameters()
        return [p for p in self.parameters if p.trainable and p not in frozen]

    @property
    def trainable(self) -> bool:
        """Whether any layer is trainable; setting it sets ``trainable`` of all layers."""
        return any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = value

    @property
    def inputs(self) -> list[Value]:
        """The values that ``cnnext.Input`` made."""
        return list(self.graph.inputs)

    @property
    def outputs(self) -> list[Value]:
        """The values that are the results: what another model's layers can be applied to."""
        return list(self.graph.outputs)

    def get_layer(self, name: str) -> Layer:
        """The layer of this name (``summary`` shows them).

        Raises
        ------
        ValueError
            If there is none; the error lists the names that are like it.
        """
        named = {layer.name: layer for layer in self.layers}
        if name not in named:
            raise ValueError(f"model {self.name!r}: " + unknown("layer", name, named))
        return named[name]

    def get_output(self, name: str) -> Value:
        """The value that a layer of one output makes: the features that a head of new layers can be applied to.

        Raises
        ------
        ValueError
            If there is no such layer, or it has several outputs, or is applied several times.
        """
        layer = self.get_layer(name)
        made = [value for node in self.graph.nodes if node.layer is layer for value in node.outputs]
        if len(made) != 1:
            raise ValueError(message(f"model {self.name!r}", "name", "be that of a layer with one output, applied once",
                                     name))
        return made[0]

    def replace_head(self, head: Layer | Sequence[Layer], after: str | None = None) -> Model:
        """A model with new layers in place of this one's last ones, for another task: fine-tuning.

        Parameters
        ----------
        head : Layer or list of Layer
            One is applied to the other's result.
        after : str, optional
            Name of the last layer that stays; by default the one before the classifier, the last layer that has a matrix of
            weights, or the windows of a convolution.

        Returns
        -------
        Model
            It has the layers that stay in common with this model, and so their parameters. Freeze them with
            ``net.trainable = False`` before the head is replaced.

        Raises
        ------
        ValueError
            If there is no such layer, or the head does not fit its result.

        Examples
        --------
        >>> net = cx.load("resnet.onnx")
        >>> net.trainable = False
        >>> net = net.replace_head(cx.Dense(5))
        """
        value = self.get_output(after) if after is not None else self._features()
        taken = {node.layer.name for node in ancestors([value])}
        for layer in [head] if isinstance(head, Layer) else head:
            layer.take_name_beside(taken)
            taken.add(layer.name)
            value = layer(value)
        net = Model(self.graph.inputs, value, self.name, exact=self.exact, tune=self.tune)
        net.num_threads = self.num_threads
        net.graph.shares_batch = self.graph.shares_batch
        net.metadata = dict(self.metadata)
        return net

    def _features(self) -> Value:
        """What the classifier reads."""
        # ONNX nodes that add a bias have weights too, but no matrix
        ends = [node for node in self.graph.nodes if any(len(p.shape) > 1 for p in node.layer.weights.values())]
        if len(self.graph.outputs) != 1 or not ends or len(ends[-1].inputs) != 1:
            rule = "be given: the model does not end in one classifier, a layer with a matrix of weights and one source"
            raise ValueError(message(f"model {self.name!r}", "after", rule, None))
        last = ends[-1]
        return last.inputs[0]

    @property
    def num_threads(self) -> int:
        """Workers of a run."""
        return self._runner.num_threads

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._runner.num_threads = resolve_threads(value)

    @property
    def exact(self) -> bool:
        """Whether sums are added up as they are defined."""
        return self._runner.exact

    @exact.setter
    def exact(self, value: bool) -> None:
        self._runner.exact = value

    @property
    def tune(self) -> bool:
        """Whether algorithms are timed."""
        return self._runner.tune

    @tune.setter
    def tune(self, value: bool) -> None:
        self._runner.tune = value

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the first input; None stands for the batch."""
        return self.graph.inputs[0].shape

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the first output."""
        return self.graph.outputs[0].shape

    # Weights

    def count_params(self) -> int:
        """Elements of all parameters."""
        return sum(p.size for p in self.parameters)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all parameters, in the order of the layers; for shapes see ``docs/NOTATION.md``."""
        return [p.peek() if p.stored is not None else p.data.copy() for p in self.parameters]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Replace all parameters.

        Raises
        ------
        ValueError
            If their number or a shape differs; nothing is changed then.
        """
        parameters, where = self.parameters, f"model {self.name!r}"
        arrays = [np.asarray(w) for w in weights]
        if len(arrays) != len(parameters):
            raise ValueError(message(where, "weights", f"be {len(parameters)} arrays", len(arrays)))
        for p, array in zip(parameters, arrays, strict=True):
            if array.shape != p.shape:
                raise ValueError(message(where, p.name, f"have shape {p.shape}", array.shape))
            if array.dtype.kind not in "fiu":
                raise TypeError(message(where, p.name, "hold numbers", str(array.dtype)))
        for p, array in zip(parameters, arrays, strict=True):
            p.assign(array)

    # Looking

    def summary(self, show: bool = True, training: bool = False, batch_size: int = 32) -> str:
        """Layers, output shapes, parameters and MACs as a table; printed unless ``show`` is False.

        Parameters
        ----------
        show : bool
        training : bool
            Append what a step of training keeps in memory: parameters, the optimizer's state, gradients, activations, and
            what all of it takes, without and with ``checkpoint_activations``. The model must be compiled.
        batch_size : int
            Of that step.
        """
        from cnnext.summary import summary, training_summary

        text = summary(self)
        if training:
            text += "\n\n" + training_summary(self, as_int("summary", "batch_size", batch_size, minimum=1))
        if show:
            print(text)
        return text

    def plan(self, batch_size: int = 1) -> Plan:
        """The inference plan for a batch size (unknown extents other than the batch must be known)."""
        batch_size = as_int("plan", "batch_size", batch_size, minimum=1)
        return self._runner.plan([v.with_batch(batch_size) for v in self.graph.inputs])

    # Training and inference

    def compile(self, optimizer: Any = "adam", loss: Any = "sparse_categorical_crossentropy",
                metrics: Sequence[Any] = (), checkpoint_activations: bool = False) -> None:
        """Choose optimizer, loss and metrics.

        Parameters
        ----------
        optimizer : str or Optimizer
        loss : str or Loss
        metrics : list of str, metric objects or functions ``f(targets, predictions)``
            ``"accuracy"``, ``"top_3_accuracy"``, ``"error_rate"`` and functions are means over examples; ``"precision"``,
            ``"recall"``, ``"f1"`` (also with ``_macro``, ``_micro``, ``_weighted``, ``_per_class``), ``"mean_iou"`` and
            ``"confusion_matrix"`` come from the confusion matrix of a whole pass. Of a model with one column the classes are
            0 and 1, below and above the loss's threshold.
        checkpoint_activations : bool
            Save memory: keep few activations for the backward pass, and compute the others again when it needs them
            (Chen et al. 2016). Results have the same bits, a step takes about a third longer;
            ``summary(training=True)`` shows what it saves.

        Raises
        ------
        ValueError, TypeError
            If a name is not known, or a metric means nothing for the model's output.
        """
        from cnnext.training.loop import Trainer

        self._trainer = Trainer(self, optimizer, loss, metrics, checkpoint_activations)
        self.optimizer, self.loss, self.metrics = self._trainer.optimizer, self._trainer.loss, self._trainer.metrics

    def _compiled(self) -> Trainer:
        if self._trainer is None:
            raise RuntimeError(f"model {self.name!r}: call compile(optimizer=..., loss=...) first.")
        return self._trainer

    def fit(self, x: np.ndarray | DataSource | Iterable[Any], y: np.ndarray | None = None, batch_size: int = 32,
            epochs: int = 1, shuffle: bool = True,
            validation_data: tuple[np.ndarray, np.ndarray] | DataSource | Iterable[Any] | None = None, verbose: int = 1,
            validation_split: float = 0.0, callbacks: Sequence[Callback] = (),
            checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int | None = None,
            resume: str | os.PathLike[str] | bool = False, steps_per_epoch: int | None = None,
            validation_steps: int | None = None) -> History:
        """Train on arrays, on a data source such as ``cnnext.data.ImageFolder``, or on the batches of a generator.

        Parameters
        ----------
        x : ndarray, shape (samples, ...), DataSource, or generator of batches (x, y)
            Objects other than generators that can be iterated are iterated anew in each epoch.
        y : ndarray, shape (samples, ...)
            Class numbers for sparse categorical cross-entropy, values for mean squared error; left out where ``x`` is a
            data source or a generator.
        batch_size, epochs : int
        shuffle : bool
            A new order in every epoch, from the seed of ``cnnext.set_random_seed``.
        validation_data : (x, y), DataSource or generator, optional
            Evaluated after every epoch.
        verbose : int
            0 is silent, 1 shows progress with loss, metrics and images per second.
        validation_split : float
            This share of the data, taken from its end, is the validation data.
        callbacks : list of Callback
            Called while it runs: ``EarlyStopping``, ``ModelCheckpoint``, ``ReduceLROnPlateau``, ``CSVLogger``, ...
        checkpoint : path, optional
            A folder of its own, in which the state of the training is kept: saved atomically after every epoch.
        checkpoint_every : int, optional
            Save after every so many steps of an epoch too.
        resume : path or bool
            The folder of a checkpoint from which the training goes on, with the bits of one that was never interrupted;
            True: the folder ``checkpoint``, where one has been saved there. ``epochs`` counts all epochs.
        steps_per_epoch, validation_steps : int, optional
            Batches that a generator is asked for in an epoch, and after it; an endless one needs them.

        Returns
        -------
        History
            ``history.history`` maps loss and metrics to a value per epoch.
        """
        return self._compiled().fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=shuffle,
                                    validation_data=validation_data, verbose=verbose,
                                    validation_split=validation_split, callbacks=callbacks, checkpoint=checkpoint,
                                    checkpoint_every=checkpoint_every, resume=resume, steps_per_epoch=steps_per_epoch,
                                    validation_steps=validation_steps)

    def train_on_batch(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """One step of training; loss and metrics of this batch before the update."""
        return self._compiled().train_on_batch(x, y)

    def evaluate(self, x: np.ndarray | DataSource | Iterable[Any], y: np.ndarray | None = None,
                 batch_size: int = 32, verbose: int = 0, steps: int | None = None) -> dict[str, float]:
        """Loss and metrics in inference mode; of a generator's batches all, or ``steps`` of them."""
        return self._compiled().evaluate(x, y, batch_size=batch_size, verbose=verbose, steps=steps)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """While the block lasts, the weights are their averages (of an optimizer with ``use_ema=True``).

        After it they are as before; what the block assigned to them is gone.

        Raises
        ------
        RuntimeError
            If there are no averages: without ``use_ema``, or before the first step.

        Examples
        --------
        >>> net.compile(cx.AdamW(1e-3, use_ema=True))
        >>> net.train_on_batch(x, y)
        >>> with net.ema_weights():
        ...     net.save("averaged.safetensors")
        """
        trainer = self._compiled()
        if not trainer.averages():
            raise RuntimeError(f"model {self.name!r}: there are no averages of weights: train with an optimizer that has "
                               "use_ema=True first.")
        with trainer.averaged():
            yield

    def predict(self, x: np.ndarray | Sequence[np.ndarray] | DataSource | Iterable[Any], batch_size: int = 32,
                steps: int | None = None) -> Any:
        """Outputs for all examples, computed batch by batch.

        Parameters
        ----------
        x : ndarray, or a list of one for each input, or DataSource, or generator
            Numbers of other types are converted to float32. A data source's examples are not augmented. A generator gives
            batches x, or tuples (x, y) whose y is passed over.
        batch_size : int
            A generator makes its batches itself.
        steps : int, optional
            Batches that a generator is asked for; by default all that it has.

        Returns
        -------
        ndarray, or a list of one for each output
        """
        from cnnext.training.stream import as_steps

        batch_size = as_int("predict", "batch_size", batch_size, minimum=1)
        steps = as_steps("predict", "steps", steps, x)
        with closing(self._input_batches(x, batch_size, steps)) as batches:
            parts = [self._runner.run(batch) for batch in batches]
        outputs = [np.concatenate([part[i] for part in parts]) for i in range(len(self.graph.outputs))]
        return outputs[0] if len(outputs) == 1 else outputs

    def _input_batches(self, x: Any, batch_size: int, steps: int | None) -> Generator[list[np.ndarray], None, None]:
        """The arrays of each run, one for each input."""
        from cnnext.data.source import DataSource
        from cnnext.training.stream import Stream, examples_of, is_stream

        if isinstance(x, DataSource):
            x.check("predict", None, self.graph.inputs)
            with closing(x.batches(batch_size)) as batches:
                yield from (examples for examples, _ in batches)
        elif is_stream(x):
            def batch_of(where: str, item: Any) -> tuple[list[np.ndarray], np.ndarray]:
                return self._inputs(where, examples_of(item)), np.empty(0)

            with closing(Stream("predict", "x", x, steps, batch_of).batches()) as batches:
                yield from (examples for examples, _ in batches)
        else:
            arrays = self._inputs("predict", x)
            for start in range(0, max(len(arrays[0]), 1), batch_size):
                yield [a[start : start + batch_size] for a in arrays]

    def _inputs(self, where: str, x: Any) -> list[np.ndarray]:
        """Examples as float32, one array for each input."""
        if not isinstance(x, (np.ndarray, list, tuple)):
            raise TypeError(message(where, "x", "be an array, or a list of one for each input", x))
        arrays = [as_float32(a) for a in ([x] if isinstance(x, np.ndarray) else x)]
        if len(arrays) != len(self.graph.inputs):
            raise ValueError(message(where, "x", f"be {len(self.graph.inputs)} array(s)", len(arrays),
                                     f"model {self.name!r}"))
        n = len(arrays[0]) if arrays[0].ndim else 0
        if any(a.ndim == 0 or len(a) != n for a in arrays):
            raise ValueError(message(where, "x", "hold as many samples for each input", [a.shape for a in arrays]))
        if not n and self.graph.shares_batch:
            raise ValueError(message(where, "x", "hold at least one example", arrays[0]))
        return arrays

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the native model file (``.safetensors``), atomically."""
        from cnnext.serialization import save

        save(self, path)

    def export_onnx(self, path: str | os.PathLike[str], opset: int | None = None) -> None:
        """Write the inference form as an ONNX file, atomically; needs the package onnx (``cnnext[onnx]``).

        Inputs and outputs keep names and shapes; the batch is the axis "N". ``cnnext.onnx.exporter.export`` returns the
        ModelProto instead.

        Parameters
        ----------
        path : path
        opset : int, optional
            Version of ONNX's operators, from 13 to 28; by default 17, or that of a model that was read from ONNX.

        Raises
        ------
        ImportError
            Without the package onnx.
        ValueError
            For another opset, and for layers that have no form in ONNX.
        """
        from cnnext.onnx.exporter import save

        save(self, path, opset)

    def __getstate__(self) -> dict[str, Any]:
        from cnnext.serialization import to_bytes

        return {"file": to_bytes(self), "num_threads": self.num_threads, "exact": self.exact,
                "tune": self.tune}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from cnnext.serialization import load

        self.__dict__.update(load(state["file"], num_threads=state["num_threads"]).__dict__)
        self.exact, self.tune = state["exact"], state["tune"]


class Sequential(Model):
    """A chain of layers.

    Parameters
    ----------
    layers : list of Layer
        May begin with an ``Input``.
    input_shape : tuple of int, optional
        Shape of one sample, unless the list begins with an ``Input``.

    Examples
    --------
    >>> net = cx.Sequential([cx.Conv2D(6, 5, activation="relu"), cx.MaxPool2D(2), cx.Flatten(), cx.Dense(10)],
    ...                     input_shape=(28, 28, 1))
    """

    def __init__(self, layers: Iterable[Layer | Value], input_shape: Sequence[int | None] | None = None,
                 name: str = "sequential", num_threads: int | None = None, exact: bool = False, tune: bool = False):
        chain = list(layers)
        if chain and isinstance(chain[0], Value):
            x = chain.pop(0)
        elif input_shape is not None:
            x = Input(input_shape)
        else:
            raise ValueError(message(f"model {name!r}", "input_shape", "be given, or the first layer be an Input",
                                     input_shape))
        assert isinstance(x, Value)
        y = x
        for i, layer in enumerate(chain):
            if not isinstance(layer, Layer):
                raise TypeError(message(f"model {name!r}", f"layers[{i}]", "be a layer", type(layer).__name__))
            y = layer(y)
            if not isinstance(y, Value):
                raise ValueError(message(f"model {name!r}", f"layers[{i}]", "have one output; use Model for branches",
                                         layer.name))
        if not chain:
            raise ValueError(message(f"model {name!r}", "layers", "be one layer or more", chain))
        super().__init__(x, y, name, num_threads, exact, tune)


def as_float32(x: Any) -> np.ndarray:
    """An array of numbers as float32, without a copy where it is that already.

    Raises
    ------
    TypeError
        For texts, objects and complex numbers.
    """
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise TypeError(message("data", "x", "hold numbers", str(array.dtype)))
    return array.astype(np.float32, copy=False)


def _values(name: str, argument: str, values: Value | Sequence[Value]) -> list[Value]:
    found = [values] if isinstance(values, Value) else list(values)
    if not found and argument == "outputs" or not all(isinstance(v, Value) for v in found):
        raise TypeError(message(f"model {name!r}", argument, "be values that cnnext.Input or a layer made", values))
    return found
