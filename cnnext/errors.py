"""Exception classes, and the one grammar of every error message."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

__all__ = ["CnnextError", "KernelError", "ModelFileError", "PluginError", "message", "unknown"]


class CnnextError(Exception):
    """Base class of the errors that are cnnext's own."""


class ModelFileError(CnnextError, ValueError):
    """A model file cannot be read: truncated, damaged, beyond the limits, or not a model file."""


class PluginError(CnnextError):
    """A plugin is missing, cannot be imported, or broke the layer contract."""


class KernelError(CnnextError, RuntimeError):
    """A kernel returned an error code while a plan ran."""


class _Shortener(reprlib.Repr):
    """``repr`` of bounded length: a value from a hostile file or a large array must not fill the screen."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = 16
        self.maxstring = self.maxother = 100

    def repr_int(self, number: int, level: int) -> str:
        """Describe a huge integer by its size; Python refuses to print more than 4300 digits."""
        return repr(number) if number.bit_length() <= 128 else f"an integer of {number.bit_length()} bits"

    def repr_ndarray(self, array: object, level: int) -> str:
        """Describe an array by type and shape; reprlib finds this method by the class name ``ndarray``."""
        return f"{getattr(array, 'dtype', '?')} array of shape {getattr(array, 'shape', '?')}"


_shorten = _Shortener().repr


def message(where: str, argument: str, rule: str, value: object, context: str = "") -> str:
    """Build an error message: who refuses, which argument, the rule, and what came instead.

    Parameters
    ----------
    where : str
        The layer, node or file, for example ``"conv2d 'stem'"``.
    argument : str
        Name of the argument as the user wrote it.
    rule : str
        What the argument must do; follows the word "must".
    value : object
        What was received; long values are shortened, arrays are shown by dtype and shape.
    context : str
        Other facts that the rule depends on, for example ``"source shape (8, 56, 56, 32)"``.

    Examples
    --------
    >>> message("conv2d 'stem'", "groups", "divide the input channels", 3, "source shape (8, 56, 56, 32)")
    "conv2d 'stem': `groups` must divide the input channels. Received groups=3 (source shape (8, 56, 56, 32))."
    """
    tail = f" ({context})" if context else ""
    return f"{where}: `{argument}` must {rule}. Received {argument}={_shorten(value)}{tail}."


def unknown(kind: str, name: object, names: Iterable[str]) -> str:
    """Build the message for a name that is not known: the closest match, if one is close, and all known names.

    Parameters
    ----------
    kind : str
        What the name should name, for example ``"layer"``.
    name : object
        The name received; anything but a string has no closest match.
    names : iterable of str
        The known names; listed sorted.

    Examples
    --------
    >>> unknown("layer", "Conv2", ["Dense", "Conv2D"])
    "unknown layer 'Conv2'. Did you mean 'Conv2D'? Known: Conv2D, Dense."
    """
    import difflib  # not at the top: only errors need it, and `import cnnext` has a time budget

    known = sorted(set(names))
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    # The length cut keeps difflib, which is quadratic, away from absurdly long names.
    close = difflib.get_close_matches(name[:100].lower(), by_lower_case, n=1) if isinstance(name, str) else []
    hint = f" Did you mean {by_lower_case[close[0]]!r}?" if close else ""
    return f"unknown {kind} {_shorten(name)}.{hint} Known: {', '.join(known) or 'none'}."
