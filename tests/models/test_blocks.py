"""What the networks share: the plugin that they need, and channels in eights."""

from __future__ import annotations

import re

import pytest

import cnnext as cx
from cnnext import plugins
from cnnext.models._blocks import divisible_by_8


def test_without_the_plugin(monkeypatch):
    others = tuple(p for p in plugins.scan().plugins if p.distribution != "cnnext-normalization")
    monkeypatch.setattr(plugins, "scan", lambda: plugins.Scan(others, ()))
    rule = ("cnnext.models: this network needs the layer 'normalization/BatchNorm', and no installed distribution provides "
            "it. Type: pip install cnnext-normalization")
    with pytest.raises(cx.PluginError, match=re.escape(rule)):
        cx.models.resnet18(classes=2, input_shape=(32, 32, 3))
    assert cx.models.resnet18(classes=2, input_shape=(32, 32, 3), batch_norm=False).output_shape == (None, 2)


def test_with_the_plugin_left_out(monkeypatch):
    pytest.importorskip("cnnext_normalization")
    monkeypatch.setenv("CNNEXT_PLUGINS", "none")
    with pytest.raises(cx.PluginError, match=re.escape("CNNEXT_PLUGINS=none leaves out. Type: CNNEXT_PLUGINS=all")):
        cx.models.mobilenet_v2(classes=2, input_shape=(32, 32, 3))


@pytest.mark.parametrize(("channels", "multiple"), [(1, 8), (11, 16), (12, 16), (18, 24), (24, 24), (30, 32), (60, 64),
                                                    (100, 104), (240, 240)])
def test_divisible_by_8(channels, multiple):
    assert divisible_by_8(channels) == multiple
