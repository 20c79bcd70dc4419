"""ONNX's own node cases, primaries and expanded function bodies."""

from __future__ import annotations

import re

from tests.onnx.numpy_ops import conformance

# What does not pass, and why.
EXCLUDED = re.compile("|".join((
    r"test_bernoulli",  # random
    r"test_(if|loop\d+|scan|scan9)($|_)",  # control flow has graphs inside
    r"test_(affine_grid|linear_attention|range|sequence_map)_.*_expanded$",  # so have these function bodies
    r"test_attention_.*_(bf16|fp16)_expanded$",  # rounds to halves after other steps than the function body
)))
# Dtypes and shapes that nobody tells before the contents are looked at.
DATA_DEPENDENT = {"ImageDecoder", "NonMaxSuppression", "StringSplit", "StringNormalizer", "Unique"}
UNKNOWN = {"Attention", "STFT"}  # ONNX's shape inference leaves some of them open, or is wrong


def test_all_cases_but_those_excluded():
    failures = {name: why for name in conformance.cases() if (why := conformance.outcome(name)[0])}
    assert not [why for name, why in failures.items() if not EXCLUDED.match(name)]
    n_primaries = len(conformance.primaries())
    failed = len(failures.keys() & conformance.primaries().keys())
    assert (n_primaries - failed) / n_primaries > 0.99


def test_infer_knows_what_contents_do_not_decide():
    unknown = {op for name in conformance.primaries() for op in conformance.outcome(name)[1]}
    assert unknown <= DATA_DEPENDENT | UNKNOWN
