"""The place of a layer whose plugin is not there: a model that has one can be looked at, saved, but not run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnext.errors import PluginError
from cnnext.graph.graph import Graph, Node, Shape, Value
from cnnext.graph.plan import PlanBuilder
from cnnext.layers.layer import Gradients, Layer, ParameterSpec

if TYPE_CHECKING:
    from cnnext.onnx.builder import OnnxBuilder

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]{0,48}")


class MissingLayer(Layer):
    """Keeps a layer's type, attributes, weights and shapes as the model file has them.

    Parameters
    ----------
    type_name : str
        ``vendor/Layer@version``.
    attributes : dict
        As in the model file.
    plugin : dict
        ``distribution`` and ``version`` that provided the layer when the model was saved, where known.
    reason : str
        Why there is no class.
    name : str
    """

    n_inputs = None

    def __init__(self, type_name: str, attributes: Mapping[str, Any], plugin: Mapping[str, Any], reason: str, name: str):
        super().__init__(name=name)
        self.type_name = type_name  # type: ignore[misc]
        self.plugin = {key: plugin[key] for key, rule in (("distribution", _DISTRIBUTION), ("version", _VERSION))
                       if isinstance(plugin.get(key), str) and rule.fullmatch(plugin[key])}
        self.reason = reason
        self.recorded: list[tuple[list[Shape], list[Shape]]] = []
        self._attributes = dict(attributes)

    @property
    def error_text(self) -> str:
        """What is missing, and the line to type."""
        known = self.plugin
        if "distribution" not in known:
            return f"{self.where}: {self.reason}"
        version = f"=={known['version']}" if "version" in known else ""
        return f"{self.where}: {self.reason} Type: pip install {known['distribution']}{version}"

    @property
    def where(self) -> str:
        return f"{self.type_name} {self.name!r}"

    def config(self) -> dict[str, Any]:
        return dict(self._attributes)

    def __repr__(self) -> str:
        return f"MissingLayer({self.type_name!r})"

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return {key: ParameterSpec(array.shape) for key, array in (self.stored_weights or {}).items()}

    def record(self, sources: Sequence[Shape], results: Sequence[Shape]) -> None:
        """Take from the file that sources of these shapes give results of those."""
        self.recorded.append((list(sources), list(results)))

    def output_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        """The recorded shapes, with the batch of the sources where the record leaves it open."""
        for sources, results in self.recorded:
            if len(sources) == len(shapes) and all(map(_fits, sources, shapes)):
                return [(shapes[0][0], *r[1:]) if r and r[0] is None else r for r in results]
        raise PluginError(self.error_text)

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """Outputs of the recorded uses."""
        return len(self.recorded[0][1]) if self.recorded else 1

    def gradient(self, g: Graph, node: Node, *diff_dst: Value | None) -> Gradients:
        raise PluginError(self.error_text)

    def lower(self, b: PlanBuilder, node: Node) -> None:
        raise PluginError(self.error_text)

    def to_onnx(self, b: OnnxBuilder, node: Node) -> None:
        raise PluginError(self.error_text)

    def macs(self, node: Node) -> int:
        raise PluginError(self.error_text)


def _fits(recorded: Shape, shape: Shape) -> bool:
    return len(recorded) == len(shape) and all(r is None or r == n for r, n in zip(recorded, shape, strict=True))
