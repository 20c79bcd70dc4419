"""ONNX operators that plugins bring: by entry points of the group ``cnnext.onnx``."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import helper

import cnnext as cx
from tests.helpers import images
from tests.onnx.imported import kernels, onnx_model
from tests.plugins.site import install

make = helper.make_node

RULES = '''
from cnnext.layers.activation import Affine

def scale(site):
    """y = factor * x; a factor of 0 is not for this rule."""
    factor = float(site.attribute("factor", 2.0))
    return site.apply(Affine(factor, 0.0, name=site.name), site.value(0)) if factor else None

def pair(site):
    return [site.value(0), scale(site)]
'''
ENTRIES = "[cnnext.onnx]\nacme/Scale = acme_rules:scale\nacme/Pair = acme_rules:pair\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("CNNEXT_PLUGINS", raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("acme")]:
        del sys.modules[name]


def model(node, outputs=("y",), weights=None, shape=("N", 3, 4)):
    return onnx_model([make("Relu", ["x"], ["r"]), node], {"x": shape}, outputs, weights, domains={"acme": 1})


def scaled(**attributes):
    return model(make("Scale", ["r"], ["y"], domain="acme", name="grow", **attributes))


X = images(2, 3, 4)


def test_an_operator_of_a_plugin(site):
    install(site, RULES, package="acme_rules", entry_points=ENTRIES)
    ours = cx.InferenceSession(scaled(factor=3.0))
    np.testing.assert_array_equal(ours.run(None, {"x": X})[0], 3 * np.maximum(X, 0))
    assert not any(name.startswith("numpy") for name in kernels(ours, {"x": X}))
    np.testing.assert_array_equal(cx.load(scaled()).predict(X), 2 * np.maximum(X, 0))


def test_an_operator_of_several_outputs(site):
    install(site, RULES, package="acme_rules", entry_points=ENTRIES)
    proto = model(make("Pair", ["r"], ["a", "b"], domain="acme"), ("b", "a"))
    b, a = cx.InferenceSession(proto).run(None, {"x": X})
    np.testing.assert_array_equal(a, np.maximum(X, 0))
    np.testing.assert_array_equal(b, 2 * a)


def test_an_operator_of_constants(site):
    install(site, RULES, package="acme_rules", entry_points=ENTRIES)
    nodes = [make("Scale", ["c"], ["s"], domain="acme"), make("Add", ["x", "s"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 4)}, ["y"], {"c": images(3, 4, seed=5)}, domains={"acme": 1})
    np.testing.assert_array_equal(cx.load(proto).predict(X), X + 2 * images(3, 4, seed=5))


@pytest.mark.parametrize("op_type", ["Conv", "Add", "Reshape", "If"])
def test_a_name_that_onnx_has_too(site, op_type):
    """The domain tells them apart: nothing that is known of ONNX's own operators is believed of this one."""
    install(site, RULES, package="acme_rules", entry_points=f"[cnnext.onnx]\nacme/{op_type} = acme_rules:scale\n")
    proto = model(make(op_type, ["r", "w"], ["y"], domain="acme"), weights={"w": images(4, 3, 3, 3)})
    net = cx.load(proto)
    assert [(p.name, p.trainable) for p in net.parameters] == [("w", True)]
    np.testing.assert_array_equal(net.predict(X), 2 * np.maximum(X, 0))


def test_a_form_that_the_rule_leaves_out(site):
    install(site, RULES, package="acme_rules", entry_points=ENTRIES)
    with pytest.raises(ValueError, match=r"acme::Scale"):
        cx.load(scaled(factor=0.0)).predict(X)


def test_the_rule_is_found_again_by_a_model_file(site, tmp_path):
    install(site, RULES, package="acme_rules", entry_points=ENTRIES)
    net = cx.load(scaled(factor=4.0))
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(cx.load(tmp_path / "net.safetensors").predict(X), 4 * np.maximum(X, 0))


def test_without_the_plugin_the_operator_is_named(site):
    with pytest.raises(cx.ModelFileError, match=r"acme::Scale \(node 'grow'\)"):
        cx.load(scaled())


@pytest.mark.parametrize("source", ["import nothing_of_this_name", "raise SystemExit(3)", "scale = undefined"])
def test_a_rule_that_cannot_be_imported(site, source):
    install(site, source, package="acme_rules", entry_points=ENTRIES)
    with pytest.raises(cx.PluginError, match=r"'acme/Scale' cannot be imported: .*acme-rules 1\.2\.3, entry point acme/Scale"
                                             r".*pip install --force-reinstall acme-rules"):
        cx.load(scaled())


def test_two_that_clash(site, monkeypatch):
    install(site, RULES, package="acme_rules", entry_points=ENTRIES)
    install(site, RULES.replace("factor *", "-factor *"), package="acme_rival",
            entry_points="[cnnext.onnx]\nacme/Scale = acme_rival:scale\n")
    with pytest.raises(cx.PluginError, match="'acme/Scale' is provided by acme-rival and acme-rules.*CNNEXT_PLUGINS"):
        cx.load(scaled())
    monkeypatch.setenv("CNNEXT_PLUGINS", "acme_rules")
    np.testing.assert_array_equal(cx.load(scaled()).predict(X), 2 * np.maximum(X, 0))


def test_a_rule_that_fails(site):
    install(site, "def scale(site):\n    return 1 / 0\n", package="acme_rules", entry_points=ENTRIES)
    rule = r"acme::Scale 'grow': its rule raised ZeroDivisionError: division by zero \(acme-rules 1\.2\.3, entry point acme/"
    with pytest.raises(cx.PluginError, match=rule):
        cx.load(scaled()).predict(X)


def test_without_plugins_normalization_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setenv("CNNEXT_PLUGINS", "none")
    nodes = [make("BatchNormalization", ["x", "a", "a", "a", "a"], ["n"], name="norm"),
             make("Split", ["n"], ["p", "q"], name="halves", axis=2), make("Add", ["p", "q"], ["y"])]
    proto = onnx_model(nodes, {"x": ("N", 3, 4)}, ["y"], {"a": np.ones(3, np.float32)}, opset=13)
    with pytest.raises(cx.ModelFileError) as error:
        cx.load(proto)
    assert "BatchNormalization (node 'norm'): pip install cnnext-normalization" in str(error.value)
    assert "Split (node 'halves'): pip install cnnext-slice-split" in str(error.value)
