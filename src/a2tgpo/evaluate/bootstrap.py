"""Means over questions with percentile bootstrap intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from a2tgpo.evaluate.paired import Mean, spread

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

RESAMPLES = 5000
"""Enough that the bounds move by about 2 % of the interval's half-width from seed to seed."""


def resampled_means(values: Float[ndarray, "Q M"], seed: str) -> Float[ndarray, "R M"]:
    """Means of M measures over `RESAMPLES` draws of Q of the Q questions, with replacement (Efron 1979).

    All measures of a question are drawn together. Equal `seed` and Q draw the same questions.
    """
    generator = np.random.default_rng(list(seed.encode()))
    n = len(values)
    draws = (np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(RESAMPLES))
    return np.stack([times @ values for times in draws]) / n


def percentile_interval(value: float, draws: Float[ndarray, " R"]) -> Mean:
    """`value` with the 2.5 % and 97.5 % quantiles of its resamples; without bounds where they are all equal.

    They are equal where every question scores the same. Resampling then knows nothing of what other questions would
    do, and an interval of width 0 would claim that it does.
    """
    if spread(draws) == 0.0:
        return Mean(value, None, None)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Mean(value, float(low), float(high))
