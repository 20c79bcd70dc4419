"""ONNX's own node cases, primaries and expanded function bodies."""

from __future__ import annotations

import re

from tests.onnx.numpy_ops import conformance

# What does not pass, and why.
EXCLUDED = re.compile("|".join((
    r"test_bernoulli",  # random
    r"test_if_opt$",  # gives an optional sequence
    r"test_scan_sum$",  # Scan of opset 8, which the reference implementation does not have either
    r"test_(affine_grid|linear_attention|range|sequence_map)_.*_expanded$",  # bodies of If, Loop and Scan that read from outside
    r"test_attention_.*_(bf16|fp16)_expanded$",  # rounds to halves after other steps than the function body
)))
# Dtypes and shapes that nobody tells before the contents are looked at.
DATA_DEPENDENT = {"ImageDecoder", "Loop", "NonMaxSuppression", "StringSplit", "StringNormalizer", "Unique"}
UNKNOWN = {"Attention", "STFT"}  # ONNX's shape inference leaves some of them open, or is wrong


def test_all_cases_but_those_excluded():
    failures = {name: why for name, case in conformance.cases().items() if (why := conformance.failure(case))}
    assert not [why for name, why in failures.items() if not EXCLUDED.match(name)]
    n_primaries = len(conformance.primaries())
    failed = len(failures.keys() & conformance.primaries().keys())
    assert (n_primaries - failed) / n_primaries > 0.995


def test_infer_knows_what_contents_do_not_decide():
    unknown = {op.title for name, case in conformance.primaries().items() if not EXCLUDED.match(name)
               for op, known in conformance.run(case) if not known}
    assert unknown <= DATA_DEPENDENT | UNKNOWN
