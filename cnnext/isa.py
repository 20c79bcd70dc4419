"""The instruction-set level that plans are made for: the best one of this machine, or ``CNNEXT_ISA``."""

from __future__ import annotations

import os
from functools import lru_cache

from cnnext._native import executor
from cnnext.errors import message


@lru_cache(maxsize=1)
def default_level() -> str:
    """Name of the level, chosen once.

    Raises
    ------
    ValueError
        If ``CNNEXT_ISA`` names a level that does not exist or that this machine cannot run.
    """
    wanted = os.environ.get("CNNEXT_ISA", "")
    names = executor.levels()
    if not wanted:
        return names[-1]
    if wanted not in names:
        raise ValueError(message("environment", "CNNEXT_ISA", f"be one of {', '.join(names)} on this machine", wanted))
    return wanted
