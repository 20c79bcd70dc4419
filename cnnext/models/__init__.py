"""Networks built from the public layers."""

from __future__ import annotations

from cnnext.models.lenet5 import lenet5

__all__ = ["lenet5"]
