"""Means over seeds with their interval, and paired differences of two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Mean:
    """A mean and its 95 % interval; without bounds where one value, or values without spread, give none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """x̄ ± t₀.₉₇₅(n − 1)·s/√n, the t interval of n independent values."""
        if spread(values) == 0.0:
            return cls(float(np.mean(values)), None, None)
        low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        return cls(float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95 % t interval, and the two-sided p of the paired t test (None with `mean`'s
    bounds)."""

    mean: Mean
    p: float | None

    @classmethod
    def between(cls, first: Sequence[float], second: Sequence[float]) -> Difference:
        """`first` minus `second`, pair by pair."""
        differences = np.subtract(first, second).tolist()
        p = None if spread(differences) == 0.0 else float(stats.ttest_1samp(differences, 0.0).pvalue)
        return cls(Mean.of(differences), p)


def spread(values: ArrayLike) -> float:
    """Largest minus smallest, 0 where rounding alone tells values apart."""
    distance = float(np.ptp(values))
    return 0.0 if distance <= 1e-12 * float(np.max(np.abs(values))) else distance


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down adjustment of a family of tests (Holm 1979); a test without p counts as 1.

    The k-th smallest of m is multiplied by m + 1 − k, and is at least the one before it.
    """
    order = sorted(p_values, key=lambda name: _or_one(p_values[name]))
    steps = [(len(order) - k) * _or_one(p_values[name]) for k, name in enumerate(order)]
    adjusted = dict(zip(order, np.minimum(1.0, np.maximum.accumulate(steps)).tolist(), strict=True))
    return {name: None if p is None else adjusted[name] for name, p in p_values.items()}


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p
