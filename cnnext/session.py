"""``InferenceSession``: run a model under the signature that people know from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import Graph, Value
from cnnext.graph.plan import Plan
from cnnext.graph.runner import Runner
from cnnext.model import Model
from cnnext.serialization import read_model
from cnnext.threads import resolve_threads

if TYPE_CHECKING:
    from cnnext.modelfile import Limits
    from cnnext.onnx.files import OnnxLimits


@dataclass(frozen=True)
class NodeArg:
    """Name, shape and type of an input or output; None in a shape stands for any extent."""

    name: str
    shape: tuple[int | None, ...]
    type: str


class InferenceSession:
    """A model ready to run; safe to share between Python threads, and picklable.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or Model
        A model file, native or ONNX, its contents, or a model. A model is not copied: weights set later are seen.
    num_threads : int, optional
        Workers; results do not depend on it.
    external_data : bool
        Allow an ONNX model, given by its path, to have tensors in other files of its own folder.
    exact : bool
        Add sums up as they are defined, as in ``Model``; so does a model that has it.
    limits : cnnext.modelfile.Limits or cnnext.onnx.OnnxLimits, optional
        As for ``cnnext.load``.
    tune : bool
        Time the algorithms there are for each convolution, as in ``Model``; so does a model that has it.

    Raises
    ------
    ModelFileError
        If the file cannot be read.

    Notes
    -----
    Weights stay in the file until the first run packs them, and are not kept beside their packed form. The file is held
    open for other input shapes, which may want another form: it may be removed or replaced, but where it was written to
    in place such a run raises ``ModelFileError``. A session of a ``Model`` that ``cnnext.load`` has read needs no file.
    """

    def __init__(self, model: Any, num_threads: int | None = None, external_data: bool = False,
                 exact: bool = False, limits: Limits | OnnxLimits | None = None, tune: bool = False):
        if not isinstance(model, Model):
            model = read_model(model, None, external_data, limits, stay=True)
        self._model = model
        self._runner = Runner(_with_output_names(model), resolve_threads(num_threads), exact=exact or model.exact,
                              tune=tune or model.tune)
        self._names = [v.name for v in self._runner.graph.inputs]

    def get_inputs(self) -> list[NodeArg]:
        """Names, shapes and types of the inputs."""
        return [_node_arg(v) for v in self._runner.graph.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """Names, shapes and types of the outputs."""
        return [_node_arg(v) for v in self._runner.graph.outputs]

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, np.ndarray],
            outputs: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """Run once.

        Parameters
        ----------
        output_names : list of str or None
            Which outputs to return; None for all.
        input_feed : dict of str to ndarray
            One float32 array for each input.
        outputs : list of ndarray, optional
            C-contiguous arrays, one for each output of the model, to write into.

        Returns
        -------
        list of ndarray
        """
        results = self._runner.run(self._arrays(input_feed), outputs)
        if output_names is None:
            return results
        by_name = dict(zip((v.name for v in self._runner.graph.outputs), results, strict=True))
        for name in output_names:
            if name not in by_name:
                raise ValueError("session: " + unknown("output", name, by_name))
        return [by_name[name] for name in output_names]

    def _arrays(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The feed in the order of the inputs, whose names it must have."""
        names = self._names
        if len(feed) == len(names):
            try:
                return [feed[name] for name in names]
            except KeyError:
                pass    # the loops below say which
        for name in feed:
            if name not in names:
                raise ValueError("session: " + unknown("input", name, names))
        for name in names:
            if name not in feed:
                raise ValueError(message("session", "input_feed", f"contain {name!r}", list(feed)))
        return [feed[name] for name in names]

    def plan(self, *shapes: Sequence[int]) -> Plan:
        """The plan for these input shapes, for ``plan.explain()``."""
        return self._runner.plan([tuple(s) for s in shapes])

    def trim(self) -> None:
        """Give plans and arenas back."""
        self._runner.trim()

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model, "num_threads": self._runner.num_threads, "exact": self._runner.exact,
                "tune": self._runner.tune}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _with_output_names(model: Model) -> Graph:
    names = [v.name for v in model.graph.outputs]
    if len(set(names)) != len(names):
        raise ValueError(message(f"model {model.name!r}", "outputs", "have different names", names))
    return model.graph


def _node_arg(value: Value) -> NodeArg:
    name = {"float32": "float", "float64": "double"}.get(value.dtype.name, value.dtype.name)
    return NodeArg(value.name, value.shape, f"tensor({name})")
