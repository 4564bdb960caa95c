"""Estimate what evaluations and methods score: means with intervals, paired tests, proportions, pass@k."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


@dataclass(frozen=True)
class Mean:
    """Hold a mean and its 95 % interval; without bounds where one value, or values without spread, give none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Return x̄ ± t₀.₉₇₅(n − 1)·s/√n, the t interval of n independent values."""
        if spread(values) == 0.0:
            return cls(float(np.mean(values)), None, None)
        low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        return cls(float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """Hold the mean of paired differences with its 95 % t interval, and the two-sided p of the paired t test.

    Without bounds of `mean` there is no p either.
    """

    mean: Mean
    p: float | None

    @classmethod
    def between(cls, first: Sequence[float], second: Sequence[float]) -> Difference:
        """Test `first` minus `second`, pair by pair."""
        differences = subtract(first, second).tolist()
        p = None if spread(differences) == 0.0 else float(stats.ttest_1samp(differences, 0.0).pvalue)
        return cls(Mean.of(differences), p)


_ROUNDING = 1e-12
"""Share of a number by which rounding may change it."""


def subtract(first: ArrayLike, second: ArrayLike) -> ndarray:
    """Return `first` minus `second`, 0 where rounding alone tells the two apart.

    A t test or a bootstrap of what rounding left would find it reliable.
    """
    difference = np.subtract(first, second)
    scale = np.maximum(np.abs(first), np.abs(second))
    return np.where(np.abs(difference) <= _ROUNDING * scale, 0.0, difference)


def spread(values: ArrayLike) -> float:
    """Return largest minus smallest, 0 where rounding alone tells values apart."""
    distance = float(np.ptp(values))
    return 0.0 if distance <= _ROUNDING * float(np.max(np.abs(values))) else distance


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Adjust a family of p values by Holm's step-down rule (Holm 1979); a test without p counts as 1.

    The k-th smallest of m is multiplied by m + 1 − k, and is at least the one before it.
    """
    order = sorted(p_values, key=lambda name: _or_one(p_values[name]))
    steps = [(len(order) - k) * _or_one(p_values[name]) for k, name in enumerate(order)]
    adjusted = dict(zip(order, np.minimum(1.0, np.maximum.accumulate(steps)).tolist(), strict=True))
    return {name: None if p is None else adjusted[name] for name, p in p_values.items()}


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


RESAMPLES = 5000
"""Enough that the bounds move by about 2 % of the interval's half-width from seed to seed."""


def resampled_means(values: Float[ndarray, "Q M"], seed: str) -> Float[ndarray, "R M"]:
    """Return the means of M measures over `RESAMPLES` draws of Q of the Q questions, with replacement (Efron 1979).

    All measures of a question are drawn together. Equal `seed` and Q draw the same questions.
    """
    generator = np.random.default_rng(list(seed.encode()))
    n = len(values)
    draws = (np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(RESAMPLES))
    return np.stack([times @ values for times in draws]) / n


def percentile_interval(value: float, draws: Float[ndarray, " R"]) -> Mean:
    """Return `value` with the 2.5 % and 97.5 % quantiles of its resamples; without bounds where all are equal.

    They are equal where every question scores the same. Resampling then knows nothing of what other questions would
    do, and an interval of width 0 would claim that it does.
    """
    if spread(draws) == 0.0:
        return Mean(value, None, None)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Mean(value, float(low), float(high))


_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """Count `hits` of `total` with Wilson's 95 % score interval (Wilson 1927), which behaves at 0 and 1."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """Return the share of hits in [0, 1]; NaN of nothing."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return the lower and upper bound in [0, 1]."""
        if not self.total:
            return math.nan, math.nan
        z2 = _Z95**2
        centre = (self.value + z2 / (2 * self.total)) / (1 + z2 / self.total)
        variance = self.value * (1 - self.value) / self.total + z2 / (4 * self.total**2)
        half = _Z95 / (1 + z2 / self.total) * math.sqrt(variance)
        return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Estimate pass@k without bias: 1 − C(n − c, k) / C(n, k), in [0, 1] (Chen et al. 2021, arXiv 2107.03374).

    It is the share, of all ways to choose k of a question's n samples, that hold one of its c correct ones.

    Raises:
        ValueError: `k` outside [1, samples], or `correct` outside [0, samples].
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k={k}: of {samples} samples, choose between 1 and {samples}")
    if not 0 <= correct <= samples:
        raise ValueError(f"correct={correct}: of {samples} samples, between 0 and {samples} can be")
    return 1 - comb(samples - correct, k) / comb(samples, k)
