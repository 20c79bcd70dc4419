"""The built modules. Private: their names and contents may change with every release.

The executor is imported here, because that loads the OpenMP runtime, and libgomp reads how long idle workers spin only
while it is loaded. Its default (some milliseconds) burns a core between runs; none at all puts the workers to sleep after
each, and waking them costs microseconds. 10,000 turns, some 20 to 50 us, bridge runs in quick succession and leave an idle
process idle. A user's own setting stands.
"""

from __future__ import annotations

import os

SPIN = "10000"


def _load_executor() -> None:
    chosen = any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"))
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPIN
    try:
        from cnnext._native import executor  # noqa: F401
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]


_load_executor()
