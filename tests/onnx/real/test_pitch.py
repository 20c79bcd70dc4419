"""CREPE tells the pitch of sine waves within 20 cents; its results beside ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import pytest

from tests.onnx.real.crepe import RATE, crepe, pitch
from tests.onnx.real.engines import Both


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_sine_waves(size):
    session = Both(crepe(size))
    for hertz in (110, 220, 440, 880):
        sound = np.sin(2 * np.pi * hertz * np.arange(2000) / RATE)
        found, certainty = pitch(session, sound)
        assert len(found) == 7
        cents = 1200 * np.log2(found / hertz)
        assert np.abs(cents).max() < 20, f"{hertz} Hz heard as {found}"
        assert certainty.min() > 0.7
