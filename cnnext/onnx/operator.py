"""One ONNX operator as the rest of ``cnnext.onnx`` sees it: free of protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Operator"]


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator with its attributes; what it reads is given beside it, by position, None for an input left out.

    Attributes
    ----------
    op_type : str
    domain : str
        "" is that of ONNX itself (``ai.onnx``).
    version : int
        Operator-set version of the domain that the model imports.
    attributes : dict
        Values as ``onnx.helper.get_attribute_value`` gives them, with texts as ``str`` and tensors as ``ndarray``.
    wanted : tuple of bool
        For each output, whether it has a name: others need not be computed.
    """

    op_type: str
    domain: str = ""
    version: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    wanted: tuple[bool, ...] = (True,)

    @property
    def title(self) -> str:
        """``domain::OpType``, or ``OpType`` alone for ONNX's own."""
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type
