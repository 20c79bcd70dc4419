"""The pause of Python's garbage collector ends as it began."""

from __future__ import annotations

import gc

import pytest

from cnnext.collector import paused_collector


@pytest.mark.parametrize("on", [True, False])
def test_it_is_as_it_was(on):
    try:
        (gc.enable if on else gc.disable)()
        with paused_collector():
            assert not gc.isenabled()
            with paused_collector():
                assert not gc.isenabled()
            assert not gc.isenabled()
        assert gc.isenabled() == on
        with pytest.raises(KeyError), paused_collector():
            raise KeyError
        assert gc.isenabled() == on
    finally:
        gc.enable()
