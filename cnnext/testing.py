"""For tests of layers, ours and plugin authors': run a layer between guard zones, and check that it keeps the contract."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cnnext._native.executor import levels
from cnnext.errors import KernelError, unknown
from cnnext.graph.chains import Run, in_order, possible_runs
from cnnext.graph.gradient import add_gradients
from cnnext.graph.graph import FLOAT32, Graph, Shape, Value, ancestors
from cnnext.graph.memory import guarded_empty
from cnnext.graph.passes import optimize, prepare
from cnnext.graph.plan import Plan
from cnnext.isa import default_level
from cnnext.layers.activation import Sigmoid, Softsign, Tanh
from cnnext.layers.attributes import as_int
from cnnext.layers.input import Input
from cnnext.layers.layer import Layer
from cnnext.model import Model
from cnnext.plugins import provider, registered
from cnnext.serialization import from_json, load, to_bytes


@dataclass
class LayerRun:
    """Results of ``run_layer``: outputs, and the gradients where ``diff_dst`` was given."""

    outputs: list[np.ndarray]
    diff_inputs: list[np.ndarray | None]
    diff_weights: dict[str, np.ndarray]


def run_layer(layer: Layer, inputs: Sequence[np.ndarray], diff_dst: Sequence[np.ndarray] | None = None, *,
              level: str | None = None, n_threads: int = 1, training: bool = False) -> LayerRun:
    """Apply a layer to arrays, forward and (with ``diff_dst``) backward, with guard zones around every buffer.

    Parameters
    ----------
    layer : Layer
        Built on first use; its weights may be set before by building it with ``layer.build(*shapes)``.
    inputs : list of ndarray
    diff_dst : list of ndarray, optional
        Gradients of the outputs.
    level : str, optional
        Instruction-set level; the machine's best by default.
    n_threads : int
    training : bool
        Use the layer's training form.

    Raises
    ------
    KernelError
        If a kernel wrote outside its results or its scratch, or reported an error.
    """
    values = [Value(x.shape, x.dtype if x.dtype != np.float64 else FLOAT32, f"x{i}") for i, x in enumerate(inputs)]
    made = layer(values)
    outputs = [made] if isinstance(made, Value) else list(made)
    graph = Graph(values, outputs, ancestors(outputs))
    graph = prepare(graph, [v.shape for v in values], training)
    feeds = [guarded_copy(x) for x in inputs]
    n_outputs, weight_names = len(graph.outputs), []
    present: list[bool] = []
    if graph.seed is not None:
        feeds.append(guarded_copy(np.zeros(1, np.int64)))
    if diff_dst is not None:
        diff_values = [Value(v.shape, FLOAT32, f"diff_{v.name}") for v in graph.outputs]
        weights = {v.parameter: v for node in graph.nodes for v in node.reads if v.parameter is not None}
        wrt = [*graph.inputs[: len(values)], *weights.values()]
        diffs = add_gradients(graph, graph.outputs, wrt, diff_values)
        names = {parameter: key for key, parameter in layer.weights.items()}
        present = [v in diffs for v in graph.inputs[: len(values)]]
        graph.outputs += [diffs[v] for v in graph.inputs[: len(values)] if v in diffs]
        for parameter, value in weights.items():
            if value in diffs and parameter.trainable:
                weight_names.append(names[parameter])
                graph.outputs.append(diffs[value])
        graph.inputs += diff_values
        feeds += [guarded_copy(d) for d in diff_dst]
        graph.order()
    results = run_graph(optimize(graph), feeds, level=level, n_threads=n_threads)
    rest = iter(results[n_outputs:])
    diff_inputs = [next(rest) if there else None for there in present]
    return LayerRun(results[:n_outputs], diff_inputs, dict(zip(weight_names, rest, strict=True)))


def run_graph(graph: Graph, feeds: Sequence[np.ndarray], *, level: str | None = None,
              n_threads: int = 1) -> list[np.ndarray]:
    """Run a graph of concrete shapes once, with guard zones around every buffer, its outputs included."""
    plan = Plan(graph, level or default_level(), guard=True)
    plan.parallel = n_threads > 1
    before = [x.copy() for x in feeds]
    outputs = plan.run(feeds, n_threads)
    steps = ", ".join(s.title for s in plan.steps)
    for value, x, kept in zip(graph.inputs, feeds, before, strict=True):
        if x.tobytes() != kept.tobytes():
            raise KernelError(f"a kernel changed the input {value.name}. Steps: {steps}.")
    return outputs


def guarded_copy(array: np.ndarray) -> np.ndarray:
    """A copy as float32 (or int64) with guard zones of NaN around it: reading beyond its end shows."""
    dtype = np.dtype(np.int64) if array.dtype.kind in "iu" else FLOAT32
    copy = guarded_empty(array.shape, dtype)
    copy[...] = array
    return copy


# The conformance kit


PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"
EXPECTED, UNEXPECTED = "fails as expected", "PASSED, expected to fail"


@dataclass(frozen=True)
class Result:
    """One line of a report card: which check, what came out, and why."""

    check: str
    outcome: str
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome in (PASSED, SKIPPED, EXPECTED)


@dataclass(frozen=True, repr=False)
class Report:
    """What ``check_layer`` found: prints as a report card.

    Attributes
    ----------
    layer : str
        The layer as code.
    provider : str
        Distribution, version and entry point; empty where the layer is not installed.
    input_shapes : list of tuple of int
    results : list of Result
    """

    layer: str
    provider: str
    input_shapes: list[tuple[int, ...]]
    results: list[Result]

    @property
    def ok(self) -> bool:
        """Whether all checks passed, or failed as expected."""
        return all(result.ok for result in self.results)

    def outcome(self, check: str) -> str:
        """What came out of one check."""
        return next(result.outcome for result in self.results if result.check == check)

    def to_json(self) -> str:
        """The report card as JSON."""
        return json.dumps({"layer": self.layer, "provider": self.provider, "input_shapes": self.input_shapes,
                           "ok": self.ok, "checks": [asdict(result) for result in self.results]}, indent=1)

    def __repr__(self) -> str:
        wide = max(len(result.check) for result in self.results)
        far = max(len(result.outcome) for result in self.results)
        shapes = ", ".join(map(str, self.input_shapes))
        lines = [f"{self.layer} on {shapes}", *([self.provider] if self.provider else [])]
        lines += [f"  {r.check:{wide}}  {r.outcome:{far}}  {r.detail}".rstrip() for r in self.results]
        return "\n".join([*lines, f"{self._count()}."])

    def summary(self) -> str:
        """One line: the layer, and how many checks are as they should be."""
        return f"{self.layer} on {', '.join(map(str, self.input_shapes))}: {self._count()}"

    def _count(self) -> str:
        good = sum(result.ok for result in self.results)
        return f"{good} of {len(self.results)} checks are as they should be"


class _Skip(Exception):
    """A check that does not apply to this layer."""


Reference = Callable[..., Any]


class _Case:
    """A layer under check with its inputs; every run starts from the same weights."""

    def __init__(self, layer: Layer, shapes: list[tuple[int, ...]], reference: Reference | None, seed: int):
        self.layer = layer
        self.shapes = shapes
        self.reference = reference
        self.rng = np.random.default_rng(seed)
        self.inputs = [self.rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        self.values = [Input(shape[1:], name=f"x{i}") for i, shape in enumerate(shapes)]
        made = layer(self.values)
        self.outputs = [made] if isinstance(made, Value) else list(made)
        self.weights = {key: p.data.copy() for key, p in layer.weights.items()}
        self._plans: dict[bool, Plan] = {}

    def restore(self) -> None:
        for key, data in self.weights.items():
            self.layer.weights[key].assign(data)

    def graph(self, training: bool, shapes: Sequence[Shape] | None = None) -> Graph:
        graph = Graph(self.values, self.outputs, ancestors(self.outputs))
        return prepare(graph, shapes or self.shapes, training)

    def between_layers(self, training: bool, sources_again: bool) -> Graph:
        """The layer between others, so that its sources and results lie in the arena; its sources may be read again."""
        sources = [Tanh(name=f"{v.name}/before")(v) for v in self.values]
        made = self.layer(sources)
        results = [made] if isinstance(made, Value) else list(made)
        # two functions, of which a kernel that applies one to its result still leaves one
        outputs = [Softsign()(Tanh()(v)) for v in results]
        if sources_again:
            outputs += [Sigmoid()(v) for v in sources]  # listed last, so computed after the layer
        return optimize(prepare(Graph(self.values, outputs, ancestors(outputs)), self.shapes, training))

    def run_plan(self, plan: Plan, n_threads: int = 1) -> list[np.ndarray]:
        """Run on the case's inputs, from the same weights as ever."""
        try:
            return plan.run(self.feeds(plan.graph, self.inputs), n_threads)
        finally:
            self.restore()

    def feeds(self, graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [*inputs, *([np.zeros(1, np.int64)] if graph.seed is not None else [])]

    def run(self, inputs: Sequence[np.ndarray] | None = None, *, level: str | None = None, n_threads: int = 1,
            training: bool = False) -> list[np.ndarray]:
        """Run between guard zones."""
        inputs = self.inputs if inputs is None else inputs
        graph = optimize(self.graph(training, [x.shape for x in inputs]))
        try:
            return run_graph(graph, [guarded_copy(x) for x in self.feeds(graph, inputs)], level=level,
                             n_threads=n_threads)
        finally:
            self.restore()

    def forward(self, inputs: Sequence[np.ndarray], weights: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The training form as a plain function, for differences."""
        if True not in self._plans:
            self._plans[True] = Plan(optimize(self.graph(training=True)), default_level())
        plan = self._plans[True]
        for key, data in weights.items():
            self.layer.weights[key].assign(data)
        try:
            return plan.run(self.feeds(plan.graph, [np.ascontiguousarray(x, np.float32) for x in inputs]))
        finally:
            self.restore()

    def backward(self, diff_dst: list[np.ndarray], level: str | None = None, n_threads: int = 1) -> LayerRun:
        try:
            return run_layer(self.layer, self.inputs, diff_dst, level=level, n_threads=n_threads, training=True)
        finally:
            self.restore()

    def expected(self, inputs: Sequence[np.ndarray], weights: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The reference in float64."""
        assert self.reference is not None
        return _listed(self.reference(*(x.astype(np.float64) for x in inputs),
                                      **{key: w.astype(np.float64) for key, w in weights.items()}))


def _listed(arrays: Any) -> list[np.ndarray]:
    return [np.asarray(a) for a in arrays] if isinstance(arrays, (list, tuple)) else [np.asarray(arrays)]


def _error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in units of the largest magnitude; infinite where one of them is not finite."""
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {actual.shape} instead of {expected.shape}")
    if actual.size == 0:
        return 0.0
    scale = max(float(np.abs(expected).max()), 1e-6)
    error = float(np.abs(actual.astype(np.float64) - expected).max()) / scale
    return error if np.isfinite(error) else float("inf")


def _same(a: Sequence[np.ndarray], b: Sequence[np.ndarray], what: str) -> None:
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.tobytes() != y.tobytes():
            raise AssertionError(f"output {i} differs {what}, by {_error(x, y):.1e} of the largest magnitude")


def _check_attributes(case: _Case) -> str:
    """The layer can be built again from what it says of itself."""
    config = json.loads(json.dumps(case.layer.config()))
    again = type(case.layer)(**{key: from_json(value) for key, value in config.items()})
    assert again.config() == case.layer.config(), f"built from {config}, it says {again.config()}"
    return ""


def _check_shapes(case: _Case) -> str:
    """What is computed has the shapes that the rule says, for this batch and for others, known or open."""
    for batch in (1, case.shapes[0][0], case.shapes[0][0] + 1):
        inputs = [np.resize(x, (batch, *x.shape[1:])) for x in case.inputs]
        made = [y.shape for y in case.run(inputs)]
        wanted = case.layer.infer_shapes(*(x.shape for x in inputs))
        assert made == wanted, f"results {made}, but the shape rule says {wanted}"
        for known, open_batch in zip(wanted, (v.shape for v in case.outputs), strict=True):
            fits = len(known) == len(open_batch) and all(m in (None, n) for n, m in zip(known, open_batch, strict=True))
            assert fits, f"the shape rule says {open_batch} for an open batch, {known} for a batch of {batch}"
    return ", ".join(str(v.shape) for v in case.outputs)


def _check_bad_shapes(case: _Case) -> str:
    """A source of a rank that the layer cannot take is refused by ValueError or TypeError, with its name."""
    refused = 0
    for shape in ((2,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)):
        try:
            case.layer.infer_shapes(*[shape] * len(case.shapes))
        except (ValueError, TypeError) as error:
            refused += 1
            assert str(error).startswith(case.layer.where), f"{shape}: {error!r} does not begin with the layer's name"
        except Exception as error:
            raise AssertionError(f"{shape}: raises {error!r}, must raise self.error(...)") from error
    return f"{refused} of 5 ranks refused"


def _check_guards(case: _Case) -> str:
    """Nothing is written outside of the results, in either mode, forward and backward; inputs stay as they are."""
    for training in (False, True):
        case.run(training=training)
    if _has_gradient(case):
        case.backward(_diffs(case))
    return ""


def _check_forward(case: _Case) -> str:
    """The inference form agrees with the reference."""
    if case.reference is None:
        raise _Skip("no reference given")
    pairs = zip(case.run(), case.expected(case.inputs, case.weights), strict=True)
    error = max(_error(y, r) for y, r in pairs)
    assert error <= 1e-4, f"differs from the reference by {error:.1e} of the largest magnitude"
    return f"error {error:.1e}"


def _diffs(case: _Case) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(y.shape).astype(np.float32) for y in case.run(training=True)]


def _has_gradient(case: _Case) -> bool:
    layer = type(case.layer)
    return any(getattr(layer, name) is not getattr(Layer, name) for name in ("gradient", "backward", "compose"))


def _check_gradient(case: _Case) -> str:
    """Gradients of inputs and weights agree with central differences.

    A result with a kink within two steps of where it is (a ReLU near 0) gets no gradient to propagate: there, the
    differences of two step sizes disagree, or those to the two sides.
    """
    exact = _reference_holds_in_training(case)
    function = case.expected if exact else case.forward
    step, tolerance = (1e-5, 1e-3) if exact else (1e-2, 1e-2)
    smooth = [np.ones(y.shape, bool) for y in case.run(training=True)]
    probes = [_probe(case, function, name, x, step, tolerance / 4, smooth) for name, x in _arguments(case)]
    share = sum(int(m.sum()) for m in smooth) / max(sum(m.size for m in smooth), 1)
    assert share >= 0.5, "central differences do not settle; is the layer random?"
    diffs = [np.where(m, d, 0).astype(np.float32) for m, d in zip(smooth, _diffs(case), strict=True)]
    run = case.backward(diffs)
    given = {**{f"input {i}": d for i, d in enumerate(run.diff_inputs)}, **run.diff_weights}
    worst = max(_compare(probe, given.get(probe.name), diffs, tolerance) for probe in probes)
    n_checked = sum(len(probe.chosen) for probe in probes)
    return f"{n_checked} elements, error {worst:.1e}, against the {'reference' if exact else 'layer itself'}"


def _reference_holds_in_training(case: _Case) -> bool:
    if case.reference is None:
        return False
    pairs = zip(case.forward(case.inputs, {}), case.expected(case.inputs, case.weights), strict=True)
    return all(y.shape == r.shape and _error(y, r) <= 1e-4 for y, r in pairs)


def _arguments(case: _Case) -> list[tuple[str, np.ndarray]]:
    trained = [(key, case.weights[key]) for key, p in case.layer.weights.items() if p.trainable]
    return [*((f"input {i}", x) for i, x in enumerate(case.inputs)), *trained]


@dataclass(frozen=True)
class _Probe:
    """How the results change with some elements of one argument: per element, the slope of each result."""

    name: str
    chosen: np.ndarray
    slopes: list[list[np.ndarray]]


def _probe(case: _Case, function: Callable[..., list[np.ndarray]], name: str, x: np.ndarray, step: float,
           tolerance: float, smooth: list[np.ndarray]) -> _Probe:
    def results(index: int, move: float) -> list[np.ndarray]:
        moved = x.astype(np.float64)
        moved.reshape(-1)[index] += move
        inputs = [moved if f"input {i}" == name else a for i, a in enumerate(case.inputs)]
        weights = {key: moved if key == name else w for key, w in case.weights.items()}
        return [y.astype(np.float64) for y in function(inputs, weights)]

    def slopes(index: int, high: float, low: float) -> list[np.ndarray]:
        return [(a - b) / (high - low) for a, b in zip(results(index, high), results(index, low), strict=True)]

    chosen = case.rng.permutation(x.size)[:16]
    steps = ((step, -step), (2 * step, -2 * step), (step, 0), (0, -step))
    near, far, above, below = ([slopes(int(i), *h) for i in chosen] for h in steps)
    scale = max([1e-2, *(float(np.abs(s).max(initial=0)) for every in near for s in every)])
    for a, b, c, d in zip(near, far, above, below, strict=True):
        for mask, n, f, up, down in zip(smooth, a, b, c, d, strict=True):
            mask &= (np.abs(n - f) <= tolerance * scale) & (np.abs(up - down) <= 0.1 * scale)
    return _Probe(name, chosen, near)


def _compare(probe: _Probe, diff: np.ndarray | None, diffs: list[np.ndarray], tolerance: float) -> float:
    wanted = np.array([sum(float((d * s).sum()) for d, s in zip(diffs, every, strict=True)) for every in probe.slopes])
    given = np.zeros(len(wanted)) if diff is None else diff.reshape(-1)[probe.chosen].astype(np.float64)
    scale = max(1e-2, float(np.abs(wanted).max(initial=0)), float(np.abs(given).max(initial=0)))
    error = float(np.abs(given - wanted).max(initial=0)) / scale
    assert error <= tolerance, f"{probe.name}: differs from central differences by {error:.1e} of the largest magnitude"
    return error


def _check_threads(case: _Case) -> str:
    """The same bits run to run and for any number of threads, forward and backward."""
    for training in (False, True):
        first = case.run(training=training)
        for n_threads in (1, 2, 3, 4):
            _same(case.run(n_threads=n_threads, training=training), first, f"with {n_threads} thread(s)")
    if _has_gradient(case):
        diffs = _diffs(case)
        first = _gradients(case.backward(diffs))
        for n_threads in (2, 4):
            _same(_gradients(case.backward(diffs, n_threads=n_threads)), first, f"backward with {n_threads} threads")
    return ""


def _gradients(run: LayerRun) -> list[np.ndarray]:
    return [*(d for d in run.diff_inputs if d is not None), *run.diff_weights.values()]


def _check_levels(case: _Case) -> str:
    """The instruction-set levels of this machine agree."""
    names = levels()
    for training in (False, True):
        first = case.run(level=names[0], training=training)
        for name in names[1:]:
            error = max(map(_error, case.run(level=name, training=training), first))
            assert error <= 1e-4, f"{name} differs from {names[0]} by {error:.1e} of the largest magnitude"
    return ", ".join(names)


def _check_in_place(case: _Case) -> str:
    """Sharing memory changes no bit, and a source that is read again later is as it was."""
    for training in (False, True):
        for again in (False, True):
            shared = case.run_plan(Plan(case.between_layers(training, again), default_level()))
            apart = case.run_plan(Plan(case.between_layers(training, again), default_level(), guard=True))
            _same(shared, apart, "where values share memory")
        kept = [1 / (1 + np.exp(-np.tanh(x.astype(np.float64)))) for x in case.inputs]
        for i, (y, wanted) in enumerate(zip(shared[len(case.outputs) :], kept, strict=True)):
            assert _error(y, wanted) <= 1e-5, f"source {i} is overwritten although it is read again"
    return ""


def _check_bands(case: _Case) -> str:
    """Computed by bands of one and of two rows, together with its neighbours, the layer gives the bits of the whole."""
    graph = case.between_layers(False, False)
    runs = possible_runs(graph)
    neighbours = (Tanh, Softsign)
    if all(isinstance(node.layer, neighbours) for run in runs for node in run):
        raise _Skip("the layer computes all rows at once")
    whole = case.run_plan(_by_bands(graph, []))
    for rows in (1, 2):
        plan = _by_bands(graph, [Run(run, rows) for run in runs])
        for n_threads in (1, 2):
            _same(case.run_plan(plan, n_threads), whole, f"by bands of {rows} rows")
    return ""


def _by_bands(graph: Graph, chains: Sequence[Run]) -> Plan:
    return Plan(graph, default_level(), guard=True, chooser=lambda b, g: in_order(g, chains))


def _check_samples(case: _Case) -> str:
    """In inference, the result of a sample does not depend on the samples beside it."""
    if len({x.shape[0] for x in case.inputs}) > 1:
        raise _Skip("the inputs have batches of different size")
    together = case.run()
    for i in range(case.shapes[0][0]):
        alone = case.run([x[i : i + 1] for x in case.inputs])
        error = max(_error(a, t[i : i + 1]) for a, t in zip(alone, together, strict=True))
        assert error <= 1e-4, f"sample {i} alone differs by {error:.1e} of the largest magnitude"
    return ""


def _check_modes(case: _Case) -> str:
    """Both modes give finite numbers; inference changes no weight, training none that is trained."""
    for training in (False, True):
        graph = optimize(case.graph(training))
        results = run_graph(graph, case.feeds(graph, case.inputs))
        changed = [key for key, p in case.layer.weights.items() if not np.array_equal(p.data, case.weights[key])]
        wrong = [key for key in changed if not training or case.layer.weights[key].trainable]
        case.restore()
        assert not wrong, f"{'training' if training else 'inference'} changes {', '.join(wrong)}"
        assert all(np.isfinite(y).all() for y in results), "results are not finite"
    state = [key for key, p in case.layer.weights.items() if not p.trainable]
    return f"state: {', '.join(state)}" if state else ""


def _model(case: _Case) -> Model:
    return Model(case.values, case.outputs, num_threads=1)


@contextmanager
def _findable(case: _Case) -> Iterator[None]:
    """Within the block, the layer's type name leads to its class, as if it were installed."""
    cls = type(case.layer)
    if not cls.type_name:
        raise _Skip("the layer has no type_name")
    if cls.type_name.startswith("cnnext/"):
        yield
        return
    with registered(cls):
        yield


def _check_file(case: _Case) -> str:
    """A model with the layer gives the same bits after it was saved and loaded."""
    with _findable(case):
        data = to_bytes(_model(case))
        _same(_listed(load(data).predict(case.inputs)), _listed(_model(case).predict(case.inputs)), "after loading")
    return f"{len(data):,} bytes"


def _check_pickle(case: _Case) -> str:
    """A model with the layer gives the same bits after pickling, as a process pool does it."""
    with _findable(case):
        again = pickle.loads(pickle.dumps(_model(case)))
        _same(_listed(again.predict(case.inputs)), _listed(_model(case).predict(case.inputs)), "after pickling")
    return ""


def _check_sharing(case: _Case) -> str:
    """Four Python threads at once get the same bits from one model."""
    model = _model(case)
    first = _listed(model.predict(case.inputs))
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(lambda _: _listed(model.predict(case.inputs)), range(12)):
            _same(again, first, "when Python threads share the model")
    return ""


FORK_SECONDS = 30


def _check_fork(case: _Case) -> str:
    """A child that is forked after a run on several threads gets the same bits, and does not hang."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise _Skip("the system has no fork")
    for training in (False, True):
        plan = Plan(optimize(case.graph(training)), default_level())
        plan.parallel = True
        first = case.run_plan(plan, n_threads=2)
        _same(_in_forked_child(partial(case.run_plan, plan, n_threads=2)), first, "in a forked child")
    return ""


def _in_forked_child(run: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def send() -> None:
        try:
            sender.send(run())
        except BaseException as error:
            sender.send(_told(error))

    child = context.Process(target=send, daemon=True)
    with warnings.catch_warnings():
        # Python warns of forks beside threads: what happens then is what is checked here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    sender.close()
    try:
        assert receiver.poll(FORK_SECONDS), f"a forked child did not finish within {FORK_SECONDS} s"
        result = receiver.recv()
    except EOFError:
        raise AssertionError("a forked child died") from None
    finally:
        child.kill()
        child.join()
        receiver.close()
    assert not isinstance(result, str), f"in a forked child: {result}"
    return result


def _check_onnx(case: _Case) -> str:
    """A model with the layer computes the same after it was exported to ONNX and read again."""
    try:
        from cnnext.onnx.exporter import export
        from cnnext.onnx.importer import load as load_onnx
    except ImportError:
        raise _Skip("the package onnx is not installed") from None
    with warnings.catch_warnings(), _findable(case):
        warnings.simplefilter("ignore")     # that other runtimes need an implementation
        proto = export(_model(case))
        made = _listed(load_onnx(proto.SerializeToString(), num_threads=1).predict(case.inputs))
    for y, r in zip(made, _listed(_model(case).predict(case.inputs)), strict=True):
        error = _error(y, r)
        assert error <= 1e-5, f"differs by {error:.1e} of the largest magnitude"
    return ", ".join(sorted({f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in proto.graph.node}))


CHECKS: dict[str, Callable[[_Case], str]] = {
    "attributes": _check_attributes,
    "shapes": _check_shapes,
    "bad shapes": _check_bad_shapes,
    "guard zones": _check_guards,
    "forward": _check_forward,
    "gradient": _check_gradient,
    "threads": _check_threads,
    "levels": _check_levels,
    "in place": _check_in_place,
    "bands": _check_bands,
    "samples": _check_samples,
    "modes": _check_modes,
    "model file": _check_file,
    "pickle": _check_pickle,
    "sharing": _check_sharing,
    "fork": _check_fork,
    "onnx": _check_onnx,
}


def check_layer(layer: Layer, input_shapes: Sequence[Sequence[int]], *, reference: Reference | None = None,
                expected_failures: Mapping[str, str] | None = None, seed: int = 0) -> Report:
    """Check that a layer keeps the layer contract; prints as a report card.

    Parameters
    ----------
    layer : Layer
        Not used elsewhere: its weights are drawn here.
    input_shapes : list of shape
        Shapes of the inputs, the batch included; small ones, for gradients are compared with central differences.
    reference : callable, optional
        ``reference(*inputs, **weights)`` returns the inference result, or a list of them, computed in float64.
    expected_failures : dict of str to str, optional
        Check -> reason. A check that is listed and passes makes the report fail too.
    seed : int
        Of the random inputs.

    Returns
    -------
    Report
        ``report.ok`` is True where all is as it should be.

    Raises
    ------
    ValueError
        If ``expected_failures`` names a check that does not exist, or a shape is not one.

    Examples
    --------
    >>> report = check_layer(cx.Conv2D(3, 3), [(2, 6, 7, 4)])
    >>> assert report.ok, report
    """
    checks = _Checks(LayerCase(layer, input_shapes, reference, expected_failures or {}, seed))
    try:
        checks.case()
    except Exception as error:
        results = [Result("build", FAILED, _told(error))]
    else:
        results = [checks.run(name)[0] for name in CHECKS]
    return Report(repr(layer), checks.provider, checks.shapes, results)


@dataclass(frozen=True)
class LayerCase:
    """A layer and how to check it: the arguments of ``check_layer``, for ``parametrize_with_layer_checks``.

    Parameters
    ----------
    layer : Layer or callable
        A layer, or what makes one when the first of its checks runs, such as its class.
    input_shapes, reference, expected_failures, seed
        As for ``check_layer``.
    """

    layer: Layer | Callable[[], Layer]
    input_shapes: Sequence[Sequence[int]]
    reference: Reference | None = None
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


class _Checks:
    """The checks of one layer, each to be run alone; what they share is made by the first."""

    def __init__(self, told: LayerCase):
        for name in told.expected_failures:
            if name not in CHECKS:
                raise ValueError("check_layer: " + unknown("check", name, CHECKS))
        self.told = told
        self.shapes = [tuple(as_int("check_layer", "input_shapes", n, minimum=1) for n in shape)
                       for shape in told.input_shapes]
        self._case: _Case | None = None

    @property
    def label(self) -> str:
        """The layer and its shapes, without making it."""
        name = repr(self.layer) if self.layer is not None else getattr(self.told.layer, "__name__", "layer")
        return "-".join([name, *("x".join(map(str, shape)) for shape in self.shapes)])

    def case(self) -> _Case:
        if self._case is None:
            layer = self.told.layer
            made = layer if isinstance(layer, Layer) else layer()
            self._case = _Case(made, self.shapes, self.told.reference, self.told.seed)
        return self._case

    @property
    def layer(self) -> Layer | None:
        """The layer, once it is made."""
        if self._case is not None:
            return self._case.layer
        return self.told.layer if isinstance(self.told.layer, Layer) else None

    @property
    def provider(self) -> str:
        """Distribution, version and entry point of an installed layer."""
        return str((self.layer is not None and provider(type(self.layer))) or "")

    def run(self, name: str) -> tuple[Result, Exception | None]:
        """What comes out of one check, and the error where it fails. A layer that cannot be built raises."""
        case, expected = self.case(), self.told.expected_failures.get(name)
        try:
            detail = CHECKS[name](case)
        except _Skip as reason:
            return Result(name, SKIPPED, str(reason)), None
        except Exception as error:
            return Result(name, FAILED if expected is None else EXPECTED, expected or _told(error)), error
        return (Result(name, PASSED, detail) if expected is None else Result(name, UNEXPECTED, expected)), None


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"


# For pytest: one test for each check


class CheckFailed(AssertionError):
    """A check of the layer contract failed; what the layer raised is the cause."""


class ExpectedCheckFailure(CheckFailed):
    """A check failed that is declared to."""


class LayerCheck:
    """One check of one layer: what a test function gets. Call it to run it.

    Attributes
    ----------
    name : str
    result : Result or None
        None until it has run.
    """

    def __init__(self, name: str, checks: _Checks):
        self.name = name
        self.result: Result | None = None
        self._checks = checks

    def __call__(self) -> None:
        """Run the check; raises where it fails, skips the test where it does not apply."""
        import pytest

        __tracebackhide__ = True
        try:
            self.result, error = self._checks.run(self.name)
        except Exception as failure:
            self.result = Result(self.name, FAILED, f"cannot be built: {_told(failure)}")
            raise
        if self.result.outcome == SKIPPED:
            pytest.skip(self.result.detail)
        if error is not None:
            kind = CheckFailed if self.result.outcome == FAILED else ExpectedCheckFailure
            raise kind(f"{self.name}: {self.result.detail}") from error

    def record(self) -> dict[str, Any]:
        """The result as JSON-able values, from which ``report_cards`` makes the cards."""
        assert self.result is not None
        checks = self._checks
        shown = repr(checks.layer) if checks.layer is not None else checks.label
        return {"layer": shown, "provider": checks.provider, "input_shapes": [list(s) for s in checks.shapes],
                **asdict(self.result)}


def parametrize_with_layer_checks(cases: Iterable[LayerCase]) -> Any:
    """A decorator that runs a test once for each check of each layer; pytest prints the report cards at the end.

    Expected failures are strict: the test of a check that is declared to fail fails where the check passes. In full, the
    cards are shown with ``pytest -v``, and as JSON with ``--layer-report=FILE``.

    Parameters
    ----------
    cases : iterable of LayerCase

    Raises
    ------
    ValueError
        If a case names a check that does not exist, or a shape is not one.

    Examples
    --------
    >>> @parametrize_with_layer_checks([LayerCase(Swirl, [(2, 6, 7, 4)], expected_failures={"samples": "mixes them"})])
    ... def test_keeps_the_layer_contract(check):
    ...     check()
    """
    import pytest

    parameters = []
    for case in cases:
        checks = _Checks(case)
        for name in CHECKS:
            check = LayerCheck(name, checks)
            marks = [pytest.mark.layer_check(check)]
            if name in case.expected_failures:
                marks.append(pytest.mark.xfail(strict=True, raises=ExpectedCheckFailure,
                                               reason=case.expected_failures[name]))
            parameters.append(pytest.param(check, marks=marks, id=f"{checks.label}-{name}"))
    return pytest.mark.parametrize("check", parameters)


def report_cards(records: Iterable[Mapping[str, Any]]) -> list[Report]:
    """The report cards of checks that ran as tests, from their records; checks in the order of ``CHECKS``."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        key = (record["test"], record["layer"], record["provider"], str(record["input_shapes"]))
        groups.setdefault(key, []).append(record)
    order = {name: i for i, name in enumerate(CHECKS)}
    cards = []
    for group in groups.values():
        results = [Result(r["check"], r["outcome"], r["detail"]) for r in group]
        results.sort(key=lambda result: order[result.check])
        shapes = [tuple(shape) for shape in group[0]["input_shapes"]]
        cards.append(Report(group[0]["layer"], group[0]["provider"], shapes, results))
    return cards
