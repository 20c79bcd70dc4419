"""Losses: what training makes small. Each is a small class that checks its targets and appends its node to a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import inf, prod
from typing import ClassVar

import numpy as np

from cnnext.errors import message, unknown
from cnnext.graph.graph import FLOAT32, INT64, Graph, Node, Shape, Value, constant
from cnnext.layers.activation import Affine, Clip, ReLU, Softplus
from cnnext.layers.attributes import as_int, as_number
from cnnext.layers.elementary import Abs, Log
from cnnext.layers.elementwise import Divide, Subtract, add, multiply, scaled
from cnnext.layers.reduce import ReduceMean, ReduceSum, with_shape
from cnnext.layers.softmax import LogSoftmax
from cnnext.training.data import matches, shown
from cnnext.training.loss_operators import SMALLEST_PROBABILITY, CrossEntropy, OneHot, SquaredError

# Layers that only move probabilities about.
REARRANGING = ("cnnext/Flatten@1", "cnnext/Reshape@1", "cnnext/Permute@1")


class Loss(ABC):
    """Base class of the losses.

    Attributes
    ----------
    target_dtype : dtype
        Of the targets in the graph.
    columns_are_classes : bool
        Whether each column is a class, also where there is one alone; else one column parts two classes.
    """

    target_dtype: ClassVar[np.dtype] = FLOAT32
    columns_are_classes: ClassVar[bool] = False

    @abstractmethod
    def target_shape(self, prediction: Shape) -> Shape:
        """Shape of the targets of predictions of this shape."""

    @abstractmethod
    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        """Append the loss of a batch to a graph: its mean over all positions, shape (1,)."""

    def for_mixtures(self) -> Loss | None:
        """The loss for targets that are mixtures of targets, as rows; None where it means nothing for them."""
        return self

    def threshold(self, prediction: Value) -> float | None:
        """What parts the two classes of predictions of one column; None where they are no classes."""
        return 0.5 if _last_layer(prediction, "cnnext/Sigmoid@1") is not None else None

    @abstractmethod
    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        """Check a whole data set's targets and return them in the shape that the loss takes, the dtype untouched.

        Raises
        ------
        TypeError
            If the dtype cannot be a target's.
        ValueError
            If the shape does not match or a target is out of range; the first bad one is named.
        """


class _Crossentropy(Loss):
    """What the cross-entropies of classes share: how predictions are understood, smoothing, weights of classes."""

    columns_are_classes = True

    def __init__(self, from_logits: bool | None = None, label_smoothing: float = 0.0,
                 class_weight: Mapping[int, float] | Sequence[float] | None = None):
        self.from_logits = _flag_or_none(type(self).__name__, from_logits)
        self.label_smoothing = as_number(type(self).__name__, "label_smoothing", label_smoothing, minimum=0, maximum=1)
        self.class_weight = None if class_weight is None else _class_weights(type(self).__name__, class_weight)

    def __repr__(self) -> str:
        given = [f"from_logits={self.from_logits}"]
        given += [f"label_smoothing={self.label_smoothing}"] if self.label_smoothing else []
        given += [f"class_weight={self.class_weight}"] if self.class_weight is not None else []
        return f"{type(self).__name__}({', '.join(given)})"

    def scores(self, prediction: Value) -> tuple[Value, bool]:
        """What the loss is computed from, and whether that is logits."""
        softmax = None if self.from_logits else _last_layer(prediction, "cnnext/Softmax@1")
        if softmax is not None and softmax is prediction.node and _over_last_axis(softmax):
            return softmax.inputs[0], True
        return prediction, softmax is None if self.from_logits is None else self.from_logits

    def of_rows(self, g: Graph, prediction: Value, rows: Value) -> Value:
        """Append the loss for targets that are a probability for each class."""
        scores, from_logits = self.scores(prediction)
        log_p = g.apply1(LogSoftmax(name="log_softmax"), scores) if from_logits else _log_probability(g, scores)
        classes = int(prediction.shape[-1] or 0)
        wanted = rows
        if self.label_smoothing:
            wanted = g.apply1(Affine(1 - self.label_smoothing, self.label_smoothing / classes, name="smoothed"), rows)
        weights = self.weights("compile", classes)
        if weights is not None:
            each = multiply(g, rows, constant(weights, "class_weight"))
            wanted = multiply(g, wanted, g.apply1(ReduceSum((-1,), True, name="weight"), each))
        positions = prod(int(n or 1) for n in prediction.shape[:-1])
        total = g.apply1(ReduceSum(None, True, name="sum"), multiply(g, wanted, log_p))
        return with_shape(g, scaled(g, total, -1.0 / positions), (1,))

    def weights(self, where: str, classes: int) -> np.ndarray | None:
        """The weight of each class, float32, shape (classes,); None where all are 1."""
        given = self.class_weight
        if given is None:
            return None
        if isinstance(given, list):
            if len(given) != classes:
                raise ValueError(message(where, "class_weight", f"hold a weight for each of the {classes} classes", given))
            return np.array(given, np.float32)
        strange = [key for key in given if key >= classes]
        if strange:
            raise ValueError(message(where, "class_weight", f"name classes in [0, {classes})", strange[0]))
        return np.array([given.get(i, 1.0) for i in range(classes)], np.float32)


class SparseCategoricalCrossentropy(_Crossentropy):
    """Mean of ``-log(probability of the label)`` over all positions; classes lie on the last axis.

    Parameters
    ----------
    from_logits : bool, optional
        True: the net gives logits. False: it gives probabilities, those below 1e-7 are taken as 1e-7. None (default):
        it gives probabilities if it ends in a softmax, else logits.
    label_smoothing : float
        In [0, 1]: this share of a label's probability 1 is spread evenly over all K classes.
    class_weight : list of float or dict of int to float, optional
        A position's loss is multiplied by the weight of its label: one for each class, or of some classes, the others
        having 1. The mean stays one over positions; it is not divided by the weights.

    Notes
    -----
    Where the net ends in a softmax over the classes and ``from_logits`` is not True, training works on the softmax's
    input: same value, without the rounding and the clipping.
    Targets are whole numbers of shape (N, ...) in [0, K) for predictions (N, ..., K).
    """

    target_dtype = INT64

    def for_mixtures(self) -> Loss | None:
        return CategoricalCrossentropy(self.from_logits, self.label_smoothing, self.class_weight)

    def target_shape(self, prediction: Shape) -> Shape:
        return prediction[:-1]

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        if self.label_smoothing or self.class_weight is not None:
            return self.of_rows(g, prediction, g.apply1(OneHot(int(prediction.shape[-1] or 0)), target))
        scores, from_logits = self.scores(prediction)
        return g.apply1(CrossEntropy(from_logits), scores, target)

    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        if targets.dtype.kind not in "iu":
            raise TypeError(f"{where}: `{argument}` must be whole numbers, the labels of the classes. "
                            f"Received dtype={targets.dtype}.")
        classes = prediction[-1]
        if targets.ndim == len(prediction) and targets.shape[-1] == 1:
            targets = targets[..., 0]
        if len(prediction) < 2 or not matches(targets.shape, prediction[:-1]):
            hint = ("; one-hot rows are for CategoricalCrossentropy, or use y.argmax(axis=-1)"
                    if targets.shape[1:] == tuple(prediction[1:]) else "")
            raise ValueError(message(where, argument, f"have shape {shown(prediction[:-1])}", targets,
                                     f"predictions {shown(prediction)}{hint}"))
        self.weights(where, int(classes or 0))
        bad = (targets < 0) | (targets >= classes)
        if bad.any():
            raise _bad_element(where, argument, f"be a label in [0, {classes})", targets, bad)
        return targets


class ElementLoss(Loss):
    """What the losses whose targets have the predictions' shape share.

    Attributes
    ----------
    bounds : tuple of float, optional
        Least and greatest target.
    """

    bounds: ClassVar[tuple[float, float] | None] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def target_shape(self, prediction: Shape) -> Shape:
        return prediction

    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        return _check_values(where, targets, prediction, argument, self.bounds)


class CategoricalCrossentropy(_Crossentropy):
    """Mean of ``-sum(target * log(probability))`` over all positions; targets are one-hot rows, or probabilities.

    Parameters
    ----------
    from_logits, label_smoothing, class_weight
        As in ``SparseCategoricalCrossentropy``. The weight of a position is the mean of the classes' weights under its
        target.

    Notes
    -----
    Targets have the predictions' shape (N, ..., K), lie in [0, 1] and sum to 1 over the classes.
    """

    def target_shape(self, prediction: Shape) -> Shape:
        return prediction

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        return self.of_rows(g, prediction, target)

    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        if targets.dtype.kind in "iu" and matches(targets.shape, prediction[:-1]):
            raise ValueError(message(where, argument, f"have shape {shown(prediction)}", targets,
                                     "labels are for SparseCategoricalCrossentropy"))
        targets = _check_values(where, targets, prediction, argument, (0, 1))
        self.weights(where, int(prediction[-1] or 0))
        totals = targets.sum(axis=-1, dtype=np.float64)
        bad = np.abs(totals - 1) > 1e-2     # half precision rounds the probabilities of many classes
        if bad.any():
            raise _bad_element(where, argument, "sum to 1 over the classes", totals, bad)
        return targets


class BinaryCrossentropy(ElementLoss):
    """Mean of ``-target * log(p) - (1 - target) * log(1 - p)`` over every element.

    Parameters
    ----------
    from_logits : bool, optional
        True: the net gives logits x, p = sigmoid(x). False: it gives probabilities; p and 1 - p below 1e-7 are taken as
        1e-7. None (default): it gives probabilities if it ends in a sigmoid, else logits.
    label_smoothing : float
        In [0, 1]: targets move by this share towards 1/2.

    Notes
    -----
    Where the net ends in a sigmoid and ``from_logits`` is not True, training works on the sigmoid's input.
    Targets have the predictions' shape and lie in [0, 1].
    """

    bounds = (0, 1)

    def __init__(self, from_logits: bool | None = None, label_smoothing: float = 0.0):
        self.from_logits = _flag_or_none("BinaryCrossentropy", from_logits)
        self.label_smoothing = as_number("BinaryCrossentropy", "label_smoothing", label_smoothing, minimum=0, maximum=1)

    def __repr__(self) -> str:
        return f"BinaryCrossentropy(from_logits={self.from_logits}, label_smoothing={self.label_smoothing})"

    def threshold(self, prediction: Value) -> float | None:
        return 0.0 if self._takes_logits(prediction) else 0.5

    def _takes_logits(self, prediction: Value) -> bool:
        return _last_layer(prediction, "cnnext/Sigmoid@1") is None if self.from_logits is None else self.from_logits

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        sigmoid = None if self.from_logits else _last_layer(prediction, "cnnext/Sigmoid@1")
        from_logits = self._takes_logits(prediction)
        if sigmoid is not None and sigmoid is prediction.node:
            prediction, from_logits = sigmoid.inputs[0], True
        if self.label_smoothing:
            target = g.apply1(Affine(1 - self.label_smoothing, self.label_smoothing / 2, name="smoothed"), target)
        other = g.apply1(Affine(-1.0, 1.0, name="one_minus_target"), target)
        if from_logits:
            # -log sigmoid(x) = softplus(-x): each term keeps its relative accuracy, which softplus(x) - target * x does not
            for_one = g.apply1(Softplus(name="if_one"), scaled(g, prediction, -1.0))
            for_zero = g.apply1(Softplus(name="if_zero"), prediction)
        else:
            for_one = scaled(g, _log_probability(g, prediction), -1.0)
            for_zero = scaled(g, _log_probability(g, g.apply1(Affine(-1.0, 1.0, name="one_minus_p"), prediction)), -1.0)
        return _mean(g, add(g, multiply(g, target, for_one), multiply(g, other, for_zero)))


class MeanSquaredError(ElementLoss):
    """Mean of ``(prediction - target)^2`` over every element; targets have the predictions' shape."""

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        return g.apply1(SquaredError(name="mean_squared_error"), prediction, target)


class MeanAbsoluteError(ElementLoss):
    """Mean of ``|prediction - target|`` over every element; targets have the predictions' shape."""

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        difference = g.apply1(Subtract(name="difference"), prediction, target)
        return _mean(g, g.apply1(Abs(name="absolute_error"), difference))


class Huber(ElementLoss):
    """Mean over every element of ``e^2 / 2`` where the error e is at most ``delta``, else ``delta * |e| - delta^2 / 2``.

    Parameters
    ----------
    delta : float
        Greater than 0: where the parabola becomes a line.

    References
    ----------
    P. Huber, "Robust estimation of a location parameter", 1964.
    """

    def __init__(self, delta: float = 1.0):
        self.delta = as_number("Huber", "delta", delta, above=0)

    def __repr__(self) -> str:
        return f"Huber(delta={self.delta})"

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        # With q = clip(e, -delta, delta) both branches are q * (e - q / 2).
        error = g.apply1(Subtract(name="difference"), prediction, target)
        bounded = g.apply1(Clip(-self.delta, self.delta, name="bounded"), error)
        lever = g.apply1(Subtract(name="lever"), error, scaled(g, bounded, 0.5))
        return _mean(g, multiply(g, bounded, lever))


class Hinge(ElementLoss):
    """Mean of ``max(1 - target * prediction, 0)`` over every element.

    Notes
    -----
    Targets have the predictions' shape and are -1 or 1; where all of them are 0 or 1, 0 is taken as -1.
    """

    def for_mixtures(self) -> Loss | None:
        return None

    def threshold(self, prediction: Value) -> float | None:
        return 0.0

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        margin = g.apply1(Affine(-1.0, 1.0, name="margin"), multiply(g, target, prediction))
        return _mean(g, g.apply1(ReLU(name="hinge"), margin))

    def check_targets(self, where: str, targets: np.ndarray, prediction: Shape, argument: str = "y") -> np.ndarray:
        targets = _check_values(where, targets, prediction, argument, None)
        if ((targets == 0) | (targets == 1)).all():
            return np.where(targets == 1, np.int8(1), np.int8(-1))
        bad = (targets != 1) & (targets != -1)
        if bad.any():
            raise _bad_element(where, argument, "be -1 or 1", targets, bad)
        return targets


class Dice(ElementLoss):
    """Mean of ``1 - (2 sum(p * target) + smooth) / (sum(p) + sum(target) + smooth)``, the overlap of two masks.

    Parameters
    ----------
    axes : tuple of int, optional
        The sums' axes, the batch (0) included; all of them when missing. ``(1, 2)`` gives each image and class of
        (N, H, W, C) a Dice coefficient of its own, and the loss is the mean of 1 minus those.
    smooth : float
        Greater than 0; of two empty masks the loss is 0.

    Notes
    -----
    Predictions p are probabilities: the net ends in a sigmoid or a softmax. Targets have their shape and lie in [0, 1].

    References
    ----------
    F. Milletari, N. Navab, S. Ahmadi, "V-Net", 2016, with plain sums in the denominator.
    """

    bounds = (0, 1)

    def __init__(self, axes: tuple[int, ...] | None = None, smooth: float = 1e-6):
        self.axes = ReduceSum(axes, name="dice").axes
        self.smooth = as_number("Dice", "smooth", smooth, above=0)

    def __repr__(self) -> str:
        return f"Dice(axes={self.axes}, smooth={self.smooth})"

    def threshold(self, prediction: Value) -> float | None:
        return 0.5

    def append(self, g: Graph, prediction: Value, target: Value) -> Value:
        both = self._sum(g, "intersection", multiply(g, prediction, target))
        # The sum of both masks, each by itself: only the prediction's has a gradient.
        sizes = add(g, self._sum(g, "predicted", prediction), self._sum(g, "wanted", target))
        above = g.apply1(Affine(2.0, self.smooth, name="numerator"), both)
        below = g.apply1(Affine(1.0, self.smooth, name="denominator"), sizes)
        share = g.apply1(Divide(name="dice"), above, below)
        return _mean(g, g.apply1(Affine(-1.0, 1.0, name="one_minus_dice"), share))

    def _sum(self, g: Graph, name: str, value: Value) -> Value:
        return g.apply1(ReduceSum(self.axes, True, name=name), value)


def _mean(g: Graph, value: Value) -> Value:
    """The mean of all elements, shape (1,)."""
    return with_shape(g, g.apply1(ReduceMean(None, True, name="mean"), value), (1,))


def _log_probability(g: Graph, p: Value) -> Value:
    return g.apply1(Log(name="log"), g.apply1(Clip(SMALLEST_PROBABILITY, inf, name="clipped"), p))


def _flag_or_none(where: str, from_logits: bool | None) -> bool | None:
    if from_logits is not None and not isinstance(from_logits, (bool, np.bool_)):
        raise ValueError(message(where, "from_logits", "be True, False or None", from_logits))
    return None if from_logits is None else bool(from_logits)


def _class_weights(where: str, given: Mapping[int, float] | Sequence[float]) -> dict[int, float] | list[float]:
    """The weights as numbers, each at least 0; their number is checked where the classes are known."""
    if isinstance(given, Mapping):
        return {as_int(where, "class_weight", key, minimum=0): as_number(where, f"class_weight[{key!r}]", value, minimum=0)
                for key, value in given.items()}
    if not isinstance(given, (Sequence, np.ndarray)) or isinstance(given, str):
        raise TypeError(message(where, "class_weight", "be a list of weights or a dict from classes to weights", given))
    return [as_number(where, f"class_weight[{i}]", value, minimum=0) for i, value in enumerate(given)]


def _check_values(where: str, targets: np.ndarray, prediction: Shape, argument: str,
                  bounds: tuple[float, float] | None) -> np.ndarray:
    """Targets of the predictions' shape, finite and within bounds; a last axis of extent 1 may be missing."""
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"{where}: `{argument}` must be numbers. Received dtype={targets.dtype}.")
    if prediction[-1] == 1 and targets.ndim == len(prediction) - 1:
        targets = targets[..., np.newaxis]
    if not matches(targets.shape, prediction):
        raise ValueError(message(where, argument, f"have shape {shown(prediction)}", targets))
    if targets.dtype.kind == "f":
        bad = ~np.isfinite(targets)
        if bad.any():
            raise _bad_element(where, argument, "be a finite number", targets, bad)
    if bounds is not None:
        bad = (targets < bounds[0]) | (targets > bounds[1])
        if bad.any():
            raise _bad_element(where, argument, f"lie in [{bounds[0]}, {bounds[1]}]", targets, bad)
    return targets


class TargetError(ValueError):
    """A target that is out of range.

    Attributes
    ----------
    place : int
        Of its example in the data.
    """

    def __init__(self, text: str, place: int):
        super().__init__(text)
        self.place = place


def _bad_element(where: str, argument: str, rule: str, array: np.ndarray, bad: np.ndarray) -> TargetError:
    index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
    text = message(where, f"{argument}[{', '.join(map(str, index))}]", rule, array[index].item())
    return TargetError(text, index[0])


def _last_layer(value: Value, type_name: str) -> Node | None:
    """The softmax or sigmoid whose probabilities a value holds, seen through layers that only rearrange them."""
    node = value.node
    while node is not None and node.layer.type_name in REARRANGING:
        node = node.inputs[0].node
    return node if node is not None and node.layer.type_name == type_name else None


def _over_last_axis(softmax: Node) -> bool:
    axis = getattr(softmax.layer, "axis", -1)
    return axis in (-1, len(softmax.output.shape) - 1)


LOSSES: dict[str, Callable[[], Loss]] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "huber": Huber,
    "hinge": Hinge,
    "dice": Dice,
}


def get_loss(loss: str | Loss) -> Loss:
    """A loss by name, or the loss itself.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is neither a name nor a loss.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"compile: `loss` must be a name or a loss object. Received {type(loss).__name__}.")
    if loss not in LOSSES:
        raise ValueError("compile: " + unknown("loss", loss, LOSSES))
    return LOSSES[loss]()
