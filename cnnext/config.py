"""``cnnext.show_config()``: what this build is and what it chose on this machine."""

from __future__ import annotations

import platform
import sys

import numpy as np

from cnnext._native import executor
from cnnext.isa import default_level
from cnnext.threads import available_threads


def show_config(show: bool = True) -> str:
    """Version, instruction-set level, tiles, threads, where times are; printed unless ``show`` is False."""
    import cnnext
    from cnnext.tuning import times_path

    info = executor.level_info(default_level())
    tiles = ", ".join(f"{rows}x{nv + 1}" for nv, rows in enumerate(info["tile_rows"]))
    lines = [
        f"cnnext {cnnext.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {sys.platform} "
        f"{platform.machine()}",
        f"instruction set: {info['level']} (of {', '.join(executor.levels())}; CNNEXT_ISA overrides)",
        f"vectors: {info['vl']} floats; GEMM tiles (pixels x vectors): {tiles}",
        f"OpenMP: {'yes' if executor.OPENMP else 'no, one thread'}; threads: {available_threads()}",
        f"times measured for tune=True: {times_path(default_level()) or 'nowhere'} (CNNEXT_CACHE overrides)",
    ]
    text = "\n".join(lines)
    if show:
        print(text)
    return text
