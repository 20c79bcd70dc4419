"""``predictions``: images with what a network takes them for."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from cnnext.errors import message
from cnnext.plot.style import CAPTION, CELL, QUIET, RIGHT, WRONG, figure_for, frame, grid, title_space


def predictions(images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray | None = None, *,
                names: Sequence[str] | None = None, columns: int = 10, title: str = "", figure: Any = None) -> Any:
    """Images in a grid, each with its most probable class; a wrong one is framed and shows the right class too.

    Parameters
    ----------
    images : ndarray, shape (images, rows, columns, 1 or 3)
        Values between 0 and 1.
    probabilities : ndarray, shape (images, classes)
    labels : ndarray of int, shape (images,), optional
        The right classes.
    names : list of str, optional
        The classes' names; numbers by default.
    columns : int
        Images in a line.
    title : str
    figure : matplotlib Figure or SubFigure, optional
        Drawn into; a new one by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    images, probabilities = _checked(images, probabilities, labels)
    lines = ceil(len(images) / columns)
    figure = figure_for(figure, columns * CELL, lines * (CELL + CAPTION) + title_space(title))
    axes = grid(figure, lines, columns, title, CAPTION)
    for i, (ax, image) in enumerate(zip(axes, images, strict=False)):
        guess = int(probabilities[i].argmax())
        name = names[guess] if names else str(guess)
        wrong = labels is not None and int(labels[i]) != guess
        colour = QUIET if labels is None else WRONG if wrong else RIGHT
        caption = f"{name}  {100 * probabilities[i, guess]:.0f} %"
        if wrong and labels is not None:
            caption += f"\nis {names[labels[i]] if names else labels[i]}"
            frame(ax, WRONG, 1.5)
        _draw(ax, image)
        ax.set_title(caption, fontsize=9, color=colour, pad=3, linespacing=1.1)
    return figure


def _checked(images: np.ndarray, probabilities: np.ndarray,
             labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    images, probabilities = np.asarray(images), np.asarray(probabilities)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(message("plot.predictions", "images", "have shape (images, rows, columns, 1 or 3)", images))
    if probabilities.ndim != 2 or len(probabilities) != len(images):
        raise ValueError(message("plot.predictions", "probabilities", f"have shape ({len(images)}, classes)",
                                 probabilities))
    if labels is not None and np.shape(labels) != (len(images),):
        raise ValueError(message("plot.predictions", "labels", f"have shape ({len(images)},)", labels))
    return images, probabilities


def _draw(ax: Any, image: np.ndarray) -> None:
    if image.shape[-1] == 1:
        ax.imshow(image[..., 0], cmap="Greys", vmin=0, vmax=1)
    else:
        ax.imshow(np.clip(image, 0, 1))
