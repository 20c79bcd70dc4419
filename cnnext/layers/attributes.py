"""Typed attributes of layers: declared once in the class body, validated at construction, written to model files.

``filters: int = integer(minimum=1)`` in a layer's body declares an attribute, its type and its rule; the constructor, the
model file and ``repr`` follow from it. A plugin declares its own in the same way.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cnnext.errors import message, unknown

Pair = tuple[int, int]
Padding = "str | tuple[Pair, Pair]"

REQUIRED: Any = object()


class Attribute:
    """One attribute of a layer: its default and the rule that a value must pass.

    Parameters
    ----------
    check : callable
        ``check(where, name, value)`` returns the normalised value or raises ``ValueError`` / ``TypeError``.
    default : object
        The value when none is given; without one the attribute is required.
    is_stored : callable
        Whether a value is written to model files.
    """

    def __init__(self, check: Callable[[str, str, Any], Any], default: Any = REQUIRED,
                 is_stored: Callable[[Any], bool] = lambda value: True):
        self.check = check
        self.default = default
        self.is_stored = is_stored


def fail(where: str, name: str, rule: str, value: object) -> ValueError:
    """The error of an attribute whose value breaks its rule."""
    return ValueError(message(where, name, rule, value))


def as_int(where: str, name: str, value: Any, minimum: int | None = None, maximum: int = 2**31 - 1) -> int:
    """A whole number within bounds; booleans and fractions are refused."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise fail(where, name, "be a whole number", value) from None
    if minimum is not None and number < minimum:
        raise fail(where, name, f"be at least {minimum}", value)
    if number > maximum:
        raise fail(where, name, f"be at most {maximum}", value)
    return number


def as_number(where: str, name: str, value: Any, minimum: float | None = None, maximum: float | None = None,
              above: float | None = None, below: float | None = None, infinite: bool = False) -> float:
    """A float within bounds; NaN is always refused, infinity unless allowed."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise fail(where, name, "be a number", value) from None
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise fail(where, name, "be a number, not NaN" if infinite else "be a finite number", value)
    rules = [
        (minimum is not None and number < minimum, f"be at least {minimum}"),
        (maximum is not None and number > maximum, f"be at most {maximum}"),
        (above is not None and number <= above, f"be greater than {above}"),
        (below is not None and number >= below, f"be less than {below}"),
    ]
    for broken, rule in rules:
        if broken:
            raise fail(where, name, rule, value)
    return number


def as_pair(where: str, name: str, value: Any, minimum: int) -> Pair:
    """Two whole numbers (rows, columns); one number stands for both."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise fail(where, name, "be one whole number or a pair (rows, columns)", value)
        first, second = (as_int(where, name, v, minimum) for v in value)
        return first, second
    number = as_int(where, name, value, minimum)
    return number, number


def integer(default: Any = REQUIRED, *, minimum: int | None = None, optional: bool = False) -> Any:
    """A whole number; with ``optional``, None as well."""
    return Attribute(
        lambda where, name, v: None if optional and v is None else as_int(where, name, v, minimum), default
    )


def number(default: Any = REQUIRED, *, optional: bool = False, **bounds: Any) -> Any:
    """A float within ``minimum``, ``maximum`` (inclusive), ``above``, ``below`` (exclusive); ``optional``: None as well."""
    return Attribute(
        lambda where, name, v: None if optional and v is None else as_number(where, name, v, **bounds), default
    )


def numbers(default: Any = REQUIRED, *, count: int, optional: bool = False, **bounds: Any) -> Any:
    """``count`` floats, each within the bounds of `number`; one stands for all; with ``optional``, None as well."""

    def check(where: str, name: str, value: Any) -> tuple[float, ...] | None:
        if optional and value is None:
            return None
        given = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,) * count
        if len(given) != count:
            raise fail(where, name, f"be {count} numbers", value)
        return tuple(as_number(where, name, v, **bounds) for v in given)

    return Attribute(check, default)


def pair(default: Any = REQUIRED, *, minimum: int = 1, optional: bool = False) -> Any:
    """A pair (rows, columns), or one number for both; with ``optional``, None as well."""
    return Attribute(
        lambda where, name, v: None if optional and v is None else as_pair(where, name, v, minimum), default
    )


def boolean(default: Any = REQUIRED) -> Any:
    """True or False."""

    def check(where: str, name: str, value: Any) -> bool:
        if type(value).__name__ in ("bool", "bool_") or isinstance(value, int) and value in (0, 1):  # NumPy's as well
            return bool(value)
        raise fail(where, name, "be True or False", value)

    return Attribute(check, default)


def choice(default: Any, *options: str) -> Any:
    """One of a few words; the first given is the default."""
    names = (default, *options)

    def check(where: str, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise fail(where, name, "be one of " + ", ".join(repr(n) for n in names), value)
        return str(value)

    return Attribute(check, default)


def shape(default: Any = REQUIRED, *, minimum: int = 0, wildcard: bool = False, optional: bool = False) -> Any:
    """A tuple of whole numbers; with ``wildcard``, one of them may be -1; with ``optional``, None as well."""

    def check(where: str, name: str, value: Any) -> tuple[int, ...] | None:
        if optional and value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Iterable):
            value = (value,)
        dims = tuple(as_int(where, name, v, -1 if wildcard else minimum) for v in value)
        if wildcard and dims.count(-1) > 1:
            raise fail(where, name, "have at most one -1", value)
        return dims

    return Attribute(check, default)


def padding(default: Any = "valid", *, words: tuple[str, ...] = ("valid", "same")) -> Any:
    """``"valid"``, ``"same"``, or explicit ``((top, bottom), (left, right))``; ``p`` and ``(ph, pw)`` are symmetric."""
    rule = "be " + ", ".join(repr(w) for w in words) + " or " * bool(words) + "((top, bottom), (left, right))"

    def check(where: str, name: str, value: Any) -> Any:
        if isinstance(value, str):
            if value not in words:
                raise fail(where, name, rule, value)
            return value
        if isinstance(value, Sequence) and len(value) == 2:
            return tuple(as_pair(where, name, v, 0) for v in value)
        if isinstance(value, Sequence):
            raise fail(where, name, rule, value)
        both = as_pair(where, name, value, 0)
        return both, both

    return Attribute(check, default)


def activation(default: Any = None) -> Any:
    """None, an activation's name (``"relu"``), or an activation layer (``cx.LeakyReLU(0.2)``)."""

    def check(where: str, name: str, value: Any) -> Any:
        if value is None:
            return None
        from cnnext.layers.activation import BY_NAME
        from cnnext.layers.layer import Layer

        if (isinstance(value, Layer) and value.as_epilogue() is not None):
            return value
        if isinstance(value, str):
            if value == "linear":
                return None
            if value in BY_NAME:
                return value
            raise ValueError(f"{where}: " + unknown("activation", value, BY_NAME))
        raise fail(where, name, "be None, an activation's name or an elementwise activation layer", value)

    return Attribute(check, default)


def data_format() -> Any:
    """``"channels_last"`` (N, H, W, C) or ``"channels_first"`` (N, C, H, W)."""
    return choice("channels_last", "channels_first")


def regularizer() -> Any:
    """None, a regularizer's name (``"l2"``), or ``cx.L1(...)``, ``cx.L2(...)``, ``cx.L1L2(...)``."""

    def check(where: str, name: str, value: Any) -> Any:
        if value is None:
            return None
        from cnnext.training.regularizers import get_regularizer

        return get_regularizer(where, name, value)

    return Attribute(check, None, lambda value: value is not None)


def initializer(default: str) -> Any:
    """An initializer's name, an ``Initializer``, an array, or a function from a shape to an array; files do not keep it."""

    def check(where: str, name: str, value: Any) -> Any:
        if isinstance(value, str) and value == default:
            return value
        from cnnext.training.initializers import get_initializer  # imports numpy.random, which files do not need

        return get_initializer(where, name, value)

    return Attribute(check, default, lambda value: False)
