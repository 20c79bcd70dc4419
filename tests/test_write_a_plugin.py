"""What docs/write-a-plugin.md shows is executed, and the checks that it lists are those that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cnnext as cx
from cnnext.graph.passes import prepare
from cnnext.testing import CHECKS, check_layer
from tests.helpers import close, images
from tests.plugins.site import install

PAGE = Path(__file__).parent.parent / "docs" / "write-a-plugin.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in a source tree")


def test_the_programs_of_the_guide(capsys):
    pytest.importorskip("onnx")
    names: dict = {"__name__": "guide"}
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(programs) == 9
    for program in programs:
        exec(program, names)
    printed = capsys.readouterr().out
    assert "17 of 17 checks" in printed
    assert "['Transpose', 'Conv', 'Mul', 'Mul', 'Conv', 'Transpose']" in printed
    assert check_layer(names["ComposedGain"](3.0), [(2, 3, 4)], reference=lambda x, gain: 3 * gain * x).ok
    x = cx.Input((5, 6, 3))
    graph = prepare(cx.Model(x, cx.ReLU()(cx.MaxPool2D(2)(cx.Conv2D(4, 3)(x)))).graph, [(2, 5, 6, 3)], training=False)
    assert [type(node.layer) for node in names["relu_first"](graph).nodes] == [cx.Conv2D, cx.ReLU, cx.MaxPool2D]


def test_the_rule_of_the_guide(tmp_path, monkeypatch):
    """Installed as the page says, it runs the operator of an ONNX model, and its weight is trained."""
    pytest.importorskip("onnx")
    from onnx import helper

    from tests.onnx.imported import onnx_model, plan

    page = PAGE.read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n((?:(?!```).)*def scale_channels.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (entry,) = re.findall(r'^"(acme/ScaleChannels)" = "cnnext_acme.onnx_rules:scale_channels"$', page, re.MULTILINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, program, package="acme_onnx_rules",
            entry_points=f"[cnnext.onnx]\n{entry} = acme_onnx_rules:scale_channels\n")
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]),
             helper.make_node("ScaleChannels", ["a", "s"], ["b"], "scale", domain="acme", factor=2.0),
             helper.make_node("Conv", ["b", "v"], ["y"])]
    tensors = {"w": images(4, 3, 3, 3), "v": images(5, 4, 1, 1), "s": images(4, seed=4)}
    proto = onnx_model(nodes, {"x": ("N", 3, 6, 6)}, ["y"], tensors, domains={"acme": 1})
    ours, x = cx.InferenceSession(proto), images(2, 3, 6, 6)
    plain = onnx_model([nodes[0], helper.make_node("Conv", ["a", "v"], ["y"])], {"x": ("N", 3, 6, 6)}, ["y"],
                       {"w": tensors["w"], "v": tensors["v"] * 2 * tensors["s"][:, None, None]})
    close(ours.run(None, {"x": x})[0], cx.load(plain).predict(x))
    kernels = [step.kernel for step in plan(ours, {"x": x}).steps]
    assert kernels.count("transpose") == 2 and not any(name.startswith("numpy") for name in kernels)
    assert {p.name for p in cx.load(proto).parameters if p.trainable} == {"w", "v", "s"}
    proto.graph.initializer[2].CopyFrom(onnx_model([], {}, [], {"s": images(3)}).graph.initializer[0])
    rule = r"acme::ScaleChannels 'scale': `scale` must have shape \(4,\). Received scale=\(3,\)"
    with pytest.raises(ValueError, match=rule):
        cx.load(proto).predict(x)


def test_the_table_lists_all_checks():
    rows = re.findall(r"^\| ([a-z ,]+) \| (?!what)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for row in rows for name in row.split(", ")] == list(CHECKS)
