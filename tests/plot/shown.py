"""What a figure shows."""

from __future__ import annotations

import numpy as np


def pictures(figure):
    """The arrays that a figure shows, in the order of its axes."""
    return [np.asarray(ax.get_images()[0].get_array()) for ax in figure.axes if ax.get_images()]


def texts(figure):
    """Everything that is written in a figure."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def overflow(figure):
    """Inches by which what is drawn reaches over an edge of the figure."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)
