"""Intervals of a proportion."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """`hits` of `total` with Wilson's 95 % score interval (Wilson 1927), which behaves at 0 and 1."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """Share of hits in [0, 1]; NaN of nothing."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound in [0, 1]."""
        if not self.total:
            return math.nan, math.nan
        z2 = _Z95**2
        centre = (self.value + z2 / (2 * self.total)) / (1 + z2 / self.total)
        spread = self.value * (1 - self.value) / self.total + z2 / (4 * self.total**2)
        half = _Z95 / (1 + z2 / self.total) * math.sqrt(spread)
        return max(0.0, centre - half), min(1.0, centre + half)
