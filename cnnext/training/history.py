"""What a training remembers of its course: values per epoch, and the means of the epoch that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class History:
    """What ``fit`` returns.

    Attributes
    ----------
    history : dict of str to list of float
        Loss and metrics, one value per epoch: over the epoch's steps, while the weights changed, and, under
        ``val_...``, on the validation data after the epoch.
    epochs : list of int
        Numbers of the epochs, from 1.
    learning_rates : list of float
        The rate of each epoch's last step.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)

    def append(self, values: dict[str, float], learning_rate: float) -> None:
        """Add an epoch."""
        self.epochs.append(len(self.epochs) + 1)
        self.learning_rates.append(learning_rate)
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)


@dataclass
class Means:
    """Means over batches, each weighted by its size; and what is added up over batches, such as confusion matrices."""

    sums: dict[str, float] = field(default_factory=dict)
    weight: int = 0
    counts: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, values: Mapping[str, float], weight: int, counts: Mapping[str, np.ndarray]) -> None:
        """Add a batch of ``weight`` examples."""
        self.weight += weight
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + weight * value
        for name, array in counts.items():
            self.counts[name] = self.counts[name] + array if name in self.counts else array

    def values(self) -> dict[str, float]:
        """The means so far."""
        return {name: total / self.weight for name, total in self.sums.items()}
