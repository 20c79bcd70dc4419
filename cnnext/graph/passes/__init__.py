"""Passes over the graph, one file each, and the two orders in which they run.

``prepare`` turns the user's layers into layers that lower themselves, for concrete shapes; ``optimize`` makes the result
cheaper without changing what it computes. Between the two, training appends its gradients. The passes of plugins see the
graph before normalization is folded and functions are fused, so both also reach what they make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cnnext.graph.graph import Graph, Shape
from cnnext.graph.passes.early_effects import early_effects
from cnnext.graph.passes.expand import expand
from cnnext.graph.passes.fold_affine import fold_affine
from cnnext.graph.passes.fuse_epilogues import fuse_epilogues
from cnnext.graph.passes.fuse_gates import fuse_gates
from cnnext.graph.passes.fuse_pools import fuse_pools
from cnnext.graph.passes.gate_weights import gate_weights
from cnnext.graph.passes.nest_concats import nest_concats
from cnnext.graph.passes.plugin_passes import plugin_passes
from cnnext.graph.passes.recompute import recompute
from cnnext.graph.passes.sink_transposes import sink_transposes

__all__ = ["optimize", "prepare"]


def prepare(graph: Graph, shapes: Sequence[Shape], training: bool, known: Mapping[int, np.ndarray] | None = None,
            staged: bool = False) -> Graph:
    """A copy of the graph for these input shapes, in which every layer lowers itself; see ``Graph.rebuild``."""
    copy = expand(graph, shapes, training, known, staged)
    # what a frozen layer shares with another may be moved by that one
    copy.frozen = graph.frozen_parameters() - {v.parameter for node in copy.effects for v in node.reads if v.parameter}
    return copy


def optimize(graph: Graph, checkpoint_activations: bool = False) -> Graph:
    """A copy of the graph that computes the same with fewer and cheaper steps.

    With ``checkpoint_activations``, a step of training keeps few activations and computes the others twice.
    """
    graph = sink_transposes(graph)
    if graph.training:
        graph = _fold_and_fuse(graph)
        return early_effects(recompute(graph) if checkpoint_activations else graph)
    return fuse_pools(_fold_and_fuse(plugin_passes(graph, _fold_and_fuse)))


def _fold_and_fuse(graph: Graph) -> Graph:
    if not graph.training:
        graph = gate_weights(fold_affine(fuse_gates(nest_concats(graph))))
    elif graph.frozen:
        graph = fold_affine(graph)
    return fuse_epilogues(graph)
