"""How ONNX operators become layers, one family per file: ``rule(site)`` returns the outputs, or None for NumPy to compute.

Rules speak of ONNX's own operators; those of other domains, and the ones that first-party plugins bring, come by entry
points of the group ``cnnext.onnx``, and are functions of the same kind.
"""

from __future__ import annotations

from cnnext.onnx import subgraphs
from cnnext.onnx.rules import convolution, elementwise, image, linear, pooling, reduction, shape
from cnnext.onnx.support import Rule

RULES: dict[str, Rule] = {
    **convolution.RULES, **elementwise.RULES, **image.RULES, **linear.RULES, **pooling.RULES, **reduction.RULES,
    **shape.RULES, **subgraphs.RULES,
}

# Operators whose layers take any element type.
ANY_TYPE = frozenset((*shape.ANY_TYPE, *subgraphs.RULES))
