"""What the conformance run counts: tests passed, of the suite's categories and of the promised operators."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

# The operators that cnnext promises: those of CNNs in model zoos, of detectors, of text recognisers, quantised ones.
PROMISED = frozenset("""
Conv ConvTranspose Gemm MatMul Add Sub Mul Div Pow Sqrt Exp Relu LeakyRelu Clip Sigmoid HardSigmoid HardSwish Tanh Erf Gelu
Softmax MaxPool AveragePool GlobalAveragePool BatchNormalization InstanceNormalization LayerNormalization ReduceMean
ReduceSum ReduceL2 Concat Split Slice Pad Flatten Reshape Transpose Squeeze Unsqueeze Expand Gather Shape Cast Constant
ConstantOfShape Identity Resize Equal Where Abs Floor Ceil Dropout
PRelu LRN Sum Max Min Log Greater GreaterOrEqual Less LessOrEqual And Or Not NonZero Range Reciprocal ReduceMax ReduceMin
ReduceProd ScatterElements GlobalMaxPool
NonMaxSuppression TopK RoiAlign GridSample ArgMax LSTM GRU
QuantizeLinear DequantizeLinear QLinearConv ConvInteger DynamicQuantizeLinear MatMulInteger
""".split())


@dataclass
class Tally:
    """Passed and all tests of the suite's categories, and of the promised operators."""

    passed: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    def count(self, groups: list[str], name: str, passed: bool) -> None:
        """Count one test in each of its groups."""
        for group in groups:
            self.total[group] += 1
            self.passed[group] += passed
        if not passed and "promised operators" in groups:
            self.missed.append(name)

    def table(self) -> str:
        """The table that the run prints."""
        rows = [f"{group:44} {self.passed[group]:5} of {self.total[group]:5}  {self.passed[group] / self.total[group]:7.1%}"
                for group in self.total]
        missed = f"promised, not passed: {', '.join(sorted(self.missed))}" if self.missed else ""
        return "\n".join(["ONNX conformance: a refused test counts as not passed", *rows, *([missed] if missed else [])])


TALLY = Tally()
_CLASS = re.compile(r"OnnxBackend(\w+?)(Model)?Test::")


def category(node_id: str) -> str | None:
    """The suite's category of a test, by pytest's name for it; None for tests of another device or another file."""
    found = _CLASS.search(node_id)
    return found.group(1) if found is not None and node_id.endswith("_cpu") else None
