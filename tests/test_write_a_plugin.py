"""What docs/write-a-plugin.md shows is executed, and the checks that it lists are those that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cnnext as cx
from cnnext.graph.passes import prepare
from cnnext.testing import CHECKS, check_layer

PAGE = Path(__file__).parent.parent / "docs" / "write-a-plugin.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in a source tree")


def test_the_programs_of_the_guide(capsys):
    pytest.importorskip("onnx")
    names: dict = {"__name__": "guide"}
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(programs) == 8
    for program in programs:
        exec(program, names)
    printed = capsys.readouterr().out
    assert "16 of 16 checks" in printed
    assert "['Transpose', 'Conv', 'Mul', 'Mul', 'Conv', 'Transpose']" in printed
    assert check_layer(names["ComposedGain"](3.0), [(2, 3, 4)], reference=lambda x, gain: 3 * gain * x).ok
    x = cx.Input((5, 6, 3))
    graph = prepare(cx.Model(x, cx.ReLU()(cx.MaxPool2D(2)(cx.Conv2D(4, 3)(x)))).graph, [(2, 5, 6, 3)], training=False)
    assert [type(node.layer) for node in names["relu_first"](graph).nodes] == [cx.Conv2D, cx.ReLU, cx.MaxPool2D]


def test_the_table_lists_all_checks():
    rows = re.findall(r"^\| ([a-z ,]+) \| (?!what)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for row in rows for name in row.split(", ")] == list(CHECKS)
