"""A network from what a user named: one of ``cnnext.models``, a pattern, or a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnext import models
from cnnext.errors import message, unknown
from cnnext.layers.softmax import Softmax
from cnnext.model import Model
from cnnext.pattern import from_pattern

Builder = Callable[[int, tuple[int, ...]], Model]


def build(model: str | Builder, outputs: int, input_shape: Sequence[int], **options: Any) -> Model:
    """Build a network with so many outputs.

    Parameters
    ----------
    model : str or function
        The name of a network of ``cnnext.models``; a pattern of ``cnnext.from_pattern``, which begins with ``INPUT``; or a
        function of the number of outputs and the shape of an example, such as the networks of ``cnnext.models``.
    outputs : int
    input_shape : tuple of int
        Of one example.
    **options
        Further arguments of the network, the pattern or the function.

    Raises
    ------
    ValueError
        If the name or an option is not known, the pattern is wrong, or the network does not have one input of this shape and
        one output of shape (N, outputs).
    TypeError
        If ``model`` is neither text nor a function, or what a function returns is no Model.
    """
    shape = tuple(int(n) for n in input_shape)
    if callable(model):
        net = model(outputs, shape, **options)
    elif not isinstance(model, str):
        raise TypeError(message("build", "model", "be the name of a network, a pattern, or a function", model))
    elif is_pattern(model):
        net = from_pattern(model, input_shape=shape, classes=outputs, **options)
    elif model in models.__all__:
        network = getattr(models, model)
        _check_options(model, network, options)
        net = network(outputs, shape, **options)
    else:
        raise ValueError("build: " + unknown("network", model, models.__all__) + " A pattern begins with INPUT.")
    _check(net, outputs, shape)
    return net


def build_classifier(model: str | Builder, classes: int, input_shape: Sequence[int], **options: Any) -> Model:
    """The same, with a softmax at the end where there is none: its outputs are probabilities."""
    net = build(model, classes, input_shape, **options)
    (scores,) = net.graph.outputs
    if ends_in_softmax(net):
        return net
    return Model(net.graph.inputs, Softmax(name="class_probabilities")(scores), name=net.name)


def is_pattern(model: str) -> bool:
    """Whether a text is meant as a pattern rather than as a name."""
    return model.lstrip(" [").upper().startswith("INPUT") or "-" in model


def ends_in_softmax(net: Model) -> bool:
    """Whether the outputs are probabilities of classes."""
    node = net.graph.outputs[0].node
    return node is not None and isinstance(node.layer, Softmax) and node.layer.axis in (-1, len(node.output.shape) - 1)


def _check_options(name: str, network: Callable[..., Model], options: Mapping[str, Any]) -> None:
    known = list(inspect.signature(network).parameters)[2:]
    for option in options:
        if option not in known:
            raise ValueError("build: " + unknown(f"option of {name}", option, known))


def _check(net: Any, outputs: int, shape: tuple[int, ...]) -> None:
    if not isinstance(net, Model):
        raise TypeError(message("build", "model", "return a cnnext.Model", type(net).__name__))
    inputs, ends = ([v.shape[1:] for v in values] for values in (net.graph.inputs, net.graph.outputs))
    if inputs != [shape]:
        raise ValueError(message(f"model {net.name!r}", "inputs", f"be one of shape {shape}", inputs))
    if ends != [(outputs,)]:
        raise ValueError(message(f"model {net.name!r}", "outputs", f"be one of shape ({outputs},)", ends))
