"""The pytest form of the conformance kit: one test for each check, strict expectations, report cards at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cnnext
from cnnext.testing import CHECKS, LayerCase, parametrize_with_layer_checks

LAYERS = '''
import cnnext as cx
from cnnext.testing import LayerCase, parametrize_with_layer_checks

class Double(cx.Layer):
    type_name = "acme/Double@1"

    def output_shape(self, *shapes):
        return shapes[0]

    def forward(self, ctx, x):
        return 2 * x

    def backward(self, ctx, dy):
        return [2 * dy]

class Wrong(Double):
    type_name = "acme/Wrong@1"

    def backward(self, ctx, dy):
        return [3 * dy]

class Broken(Double):
    def validate(self):
        raise RuntimeError("no layer")
'''
TEST = '''
@parametrize_with_layer_checks([LayerCase(CASE)])
def test_contract(check):
    check()
'''
N = len(CHECKS)


def run(folder: Path, text: str, *arguments: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(Path(cnnext.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", *arguments,
                           "test_it.py"], cwd=folder, env=environment, text=True, capture_output=True)
    return done.returncode, done.stdout + done.stderr


def checked(folder: Path, case: str, *arguments: str) -> tuple[int, str]:
    return run(folder, LAYERS + TEST.replace("CASE", case), *arguments)


def test_one_test_for_each_check(tmp_path):
    code, text = checked(tmp_path, "Double, [(2, 3)]", "-v")
    assert code == 0, text
    assert f"{N - 2} passed, 2 skipped" in text  # no reference is given, and the layer has no rows
    for name in CHECKS:
        assert f"test_contract[Double-2x3-{name}]" in text
    assert "Double() on (2, 3)" in text and f"{N} of {N} checks are as they should be." in text


def test_without_v_a_good_layer_takes_one_line(tmp_path):
    code, text = checked(tmp_path, "Double(), [(2, 3)], reference=lambda x: 2 * x")
    assert code == 0 and f"{N - 1} passed, 1 skipped" in text, text
    assert f"Double() on (2, 3): {N} of {N} checks are as they should be\n" in text


def test_a_fault_fails_its_test_and_shows_the_card(tmp_path):
    code, text = checked(tmp_path, "Wrong, [(2, 3)]", "--layer-report=cards.json")
    assert code == 1 and "FAILED test_it.py::test_contract[Wrong-2x3-gradient]" in text, text
    assert f"1 failed, {N - 3} passed, 2 skipped" in text and f"{N - 1} of {N} checks are as they should be." in text
    [card] = json.loads((tmp_path / "cards.json").read_text())
    assert card["layer"] == "Wrong()" and card["input_shapes"] == [[2, 3]] and not card["ok"]
    assert [c["check"] for c in card["checks"]] == list(CHECKS)
    assert [c["check"] for c in card["checks"] if c["outcome"] == "FAILED"] == ["gradient"]


@pytest.mark.parametrize(("layer", "code", "words"), [("Wrong", 0, "1 xfailed"), ("Double", 1, "XPASS(strict)")])
def test_expected_failures_are_strict(tmp_path, layer, code, words):
    case = f"{layer}, [(2, 3)], expected_failures={{'gradient': 'three is not two'}}"
    found, text = checked(tmp_path, case, "-v", "--layer-report=cards.json")
    assert found == code and words in text and "three is not two" in text, text
    [card] = json.loads((tmp_path / "cards.json").read_text())
    assert card["ok"] == (code == 0)


def test_a_layer_that_cannot_be_made_fails_all_its_checks(tmp_path):
    code, text = checked(tmp_path, "Broken, [(2, 3)], expected_failures={'gradient': 'three is not two'}")
    assert code == 1 and f"{N} failed" in text and "cannot be built: RuntimeError: no layer" in text, text


def test_cards_of_several_layers_and_tests(tmp_path):
    text = LAYERS + "SHAPES = [(2, 3), (1, 2, 5)]" + TEST.replace("[LayerCase(CASE)]", (
        "LayerCase(layer, [s]) for layer in (Double, cx.ReLU) for s in SHAPES")) + TEST.replace(
        "CASE", "Double, [(2, 3)]").replace("test_contract", "test_again")
    code, shown = run(tmp_path, text, "--layer-report=cards.json", "-k", "not fork")
    assert code == 0, shown
    cards = json.loads((tmp_path / "cards.json").read_text())
    assert [(c["layer"], c["input_shapes"]) for c in cards] == [
        ("Double()", [[2, 3]]), ("Double()", [[1, 2, 5]]), ("ReLU()", [[2, 3]]), ("ReLU()", [[1, 2, 5]]),
        ("Double()", [[2, 3]])]
    assert all(len(c["checks"]) == N - 1 for c in cards)


def test_what_does_not_exist_is_refused_when_tests_are_collected():
    with pytest.raises(ValueError, match="unknown check 'grad'"):
        parametrize_with_layer_checks([LayerCase(cnnext.ReLU, [(2, 3)], expected_failures={"grad": "?"})])
    with pytest.raises(ValueError, match="`input_shapes` must"):
        parametrize_with_layer_checks([LayerCase(cnnext.ReLU, [(2, 0)])])


def test_it_costs_nothing_where_no_layer_is_checked(tmp_path):
    code, text = run(tmp_path, "import sys\n\ndef test_it():\n"
                     "    assert 'cnnext.pytest_plugin' in sys.modules\n"
                     "    engine = {'numpy', 'entrypoints', 'cnnext.testing', 'cnnext.plugins', 'cnnext.model'}\n"
                     "    assert not engine & set(sys.modules)\n"
                     "    assert not [m for m in sys.modules if m.startswith('cnnext._native')]\n")
    assert code == 0 and "1 passed" in text and "layer contract" not in text, text
