"""Argument types that several commands use."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number


def seed(text: str) -> int:
    """A whole number from 0 to 2^63 - 1."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not {text!r}")
    return number


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, not {text!r}") from None


def shape(text: str) -> tuple[int, ...]:
    """Extents with commas between them."""
    return tuple(positive(part) for part in text.split(","))


def size(text: str) -> tuple[int, int]:
    """Rows and columns, with a comma between them, or one number for both."""
    extents = shape(text)
    if len(extents) > 2:
        raise argparse.ArgumentTypeError(f"must be ROWS,COLUMNS or one number for both, not {text!r}")
    return extents[0], extents[-1]


def above_zero(text: str) -> float:
    """A finite number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, not {text!r}")
    return number


def share(text: str) -> float:
    """A number from 0 to below 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1, not {text!r}")
    return number


def option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as JSON: a number, true or false."""
    name, equals, value = text.partition("=")
    try:
        if not (name.isidentifier() and equals):
            raise ValueError
        return name, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be NAME=NUMBER, NAME=true or NAME=false, not {text!r}") from None
