"""U-Net: sizes that do not halve evenly."""

from __future__ import annotations

import re

import pytest

import cnnext as cx


def test_sizes():
    rule = "unet: `input_shape` must have multiples of 16 rows and columns. Received input_shape=(64, 40, 3)."
    with pytest.raises(ValueError, match=re.escape(rule)):
        cx.models.unet(input_shape=(64, 40, 3))
    pytest.importorskip("cnnext_normalization")
    assert cx.models.unet(3, (32, 48, 1), base=4).output_shape == (None, 32, 48, 3)
