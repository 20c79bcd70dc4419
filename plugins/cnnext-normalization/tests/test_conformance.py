"""cnnext's own kit for layers of plugins, where the plugin is installed."""

from __future__ import annotations

import importlib.metadata

import pytest
from cnnext_normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, LocalResponseNorm, RMSNorm

import cnnext as cx
from cnnext.testing import LayerCase, parametrize_with_layer_checks

LAYERS = [BatchNorm(), GroupNorm(2), InstanceNorm(), LayerNorm(), RMSNorm(), LocalResponseNorm(3)]
NAMES = {p.name for p in importlib.metadata.entry_points(group="cnnext.layers")}
installed = pytest.mark.skipif("normalization/BatchNorm@1" not in NAMES, reason="the plugin is not installed")


@parametrize_with_layer_checks(LayerCase(layer, [(3, 5, 4, 6)]) for layer in LAYERS)
def test_keeps_the_layer_contract(check):
    check()


@installed
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_found_by_name(layer):
    assert cx.layer(layer.type_name) is type(layer)
    assert cx.layer(layer.type_name.partition("@")[0]) is type(layer)
