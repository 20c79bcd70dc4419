"""Pictures of networks, of what they learn and of how well, with matplotlib (extra ``plot``).

Each function returns a figure: a notebook shows it, ``figure.savefig("name.png")`` writes it. Nothing is displayed and no
global state of matplotlib is touched.
"""

from __future__ import annotations

from cnnext.plot.curves import history
from cnnext.plot.fields import receptive_field
from cnnext.plot.images import predictions
from cnnext.plot.layers import feature_maps, filters
from cnnext.plot.matrix import confusion

__all__ = ["confusion", "feature_maps", "filters", "history", "predictions", "receptive_field"]
