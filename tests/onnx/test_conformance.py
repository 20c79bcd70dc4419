"""ONNX's own conformance suite, all of it: a test is one of the suite's, the table is printed at the end of the run."""

from __future__ import annotations

import os
import tempfile

import pytest

pytest.importorskip("onnx")
# The suite writes the inputs of its real models there.
os.environ.setdefault("ONNX_MODELS", os.path.join(tempfile.gettempdir(), "cnnext-onnx-models"))

import onnx.backend.test
from onnx.backend.test.loader import load_model_tests

from cnnext.onnx.backend import CnnextBackend
from tests.onnx.conformance import PROMISED

suite = onnx.backend.test.BackendTest(CnnextBackend, __name__)

# Known gaps, each a reason and the tests; one that begins to pass fails the run.
GAPS = {
    "sequences and optional values are no tensors": [
        "(?<!reverse)sequence", "optional_(get|has)", "identity_opt", "test_if_opt", "test_if_seq", "loop13_seq",
        "loop16_seq_none",
    ],
    "texts are no tensors of numbers": [
        "string", "strnorm", "tfidf", "regex", "label_encoder_string_int", "label_encoder_tensor_(mapping|value)",
    ],
    "pictures are decoded by Pillow, not here": ["image_decoder"],
    "Scan is no operator of feed-forward networks": ["test_scan", "linear_attention.*_expanded"],
    "differentiation inside a model": ["gradient_of"],
    "takes functions as attributes, outside of CNNs": [
        "flexattention_(score_mod|prob_mod|causal_mask|soft_cap|relative_positional)_cpu",
    ],
}
# The suite expects NumPy's own random numbers.
RANDOM = ["bernoulli"]
# Half precision, rounded after each step as NumPy does and not as the function body is meant: passes or not by platform.
HALF_PRECISION = ["attention.*(bf16|fp16)_expanded"]

for pattern in (p for patterns in GAPS.values() for p in patterns):
    suite.xfail(pattern)
for pattern in RANDOM + HALF_PRECISION:
    suite.exclude(pattern)


def _operators() -> dict[str, str]:
    """The first operator of each node test; of its expanded twin, the same."""
    found = {}
    for case in load_model_tests(kind="node"):
        if "_expanded" not in case.name:
            found[case.name] = case.model.graph.node[0].op_type
    return found


OPERATORS = _operators()


def groups_of(kind: str, name: str) -> list[str]:
    """The rows of the table that a test counts in."""
    rows = {"Node": "node", "Simple": "simple", "PyTorchOperator": "pytorch-operator",
            "PyTorchConverted": "pytorch-converted", "Real": "real models"}
    groups = [rows.get(kind, kind)]
    if kind == "Node" and OPERATORS.get(name.partition("_expanded")[0]) in PROMISED:
        groups.append("promised operators")
    return groups


def _on_cpu(cases: type) -> type:
    """The suite has a twin of each test for another device, which would only be skipped."""
    for name in [name for name in dir(cases) if name.endswith("_cuda")]:
        delattr(cases, name)
    return cases


globals().update({name: _on_cpu(cases) for name, cases in suite.test_cases.items()})
