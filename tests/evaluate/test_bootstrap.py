"""The bootstrap against the standard error that theory gives, and its determinism."""

from __future__ import annotations

import math

import numpy as np
import pytest

from a2tgpo.evaluate import bootstrap
from a2tgpo.evaluate.bootstrap import percentile_interval, resampled_means
from a2tgpo.evaluate.paired import Mean


def binary(hits: int, total: int) -> np.ndarray:
    """A measure that is 1 for `hits` of `total` questions."""
    return np.repeat([1.0, 0.0], [hits, total - hits])[:, None]


@pytest.mark.parametrize(("hits", "total"), [(120, 400), (50, 1000), (20, 40)])
def test_standard_error_of_a_share(hits: int, total: int) -> None:
    """Resampled shares are Binomial(n, p)/n: mean p, standard deviation √(p(1 − p)/n), both within four of their own
    standard errors, and the interval is about p ± 1.96 of it."""
    p = hits / total
    error = math.sqrt(p * (1 - p) / total)
    draws = resampled_means(binary(hits, total), "hotpotqa")[:, 0]
    n = bootstrap.RESAMPLES
    assert draws.shape == (n,)
    assert abs(draws.mean() - p) < 4 * error / math.sqrt(n)
    assert abs(draws.std() / error - 1) < 4 / math.sqrt(2 * n)
    interval = percentile_interval(p, draws)
    assert interval.low == pytest.approx(p - 1.96 * error, abs=0.15 * error + 1 / total)
    assert interval.high == pytest.approx(p + 1.96 * error, abs=0.15 * error + 1 / total)


def test_it_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 samples of 200 questions with p = 0.3, about 95 % have an interval that holds 0.3 (±4 standard errors of a
    share of 400, and the percentile interval's small shortfall)."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    truth, generator = 0.3, np.random.default_rng(0)
    held = 0
    for sample in range(400):
        values = (generator.random((200, 1)) < truth).astype(float)
        interval = percentile_interval(float(values.mean()), resampled_means(values, f"sample {sample}")[:, 0])
        assert interval.low is not None and interval.high is not None
        held += interval.low <= truth <= interval.high
    assert 0.90 < held / 400 < 0.99


def test_draws_depend_on_the_seed_alone() -> None:
    """The same values and seed give the same draws, another seed others."""
    values = binary(3, 10)
    again = resampled_means(values, "nq")
    assert np.array_equal(resampled_means(values, "nq"), again)
    assert not np.array_equal(resampled_means(values, "popqa"), again)


def test_the_measures_of_a_question_stay_together() -> None:
    """A measure and its complement add up to 1 in every draw."""
    values = binary(3, 10)
    draws = resampled_means(np.hstack([values, 1 - values]), "nq")
    assert draws.sum(axis=1) == pytest.approx(np.ones(len(draws)))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1.0])
def test_without_spread_there_is_no_interval(value: float) -> None:
    """Where all questions score the same, and of one question, there is a mean and no interval."""
    for n in (1, 7):
        draws = resampled_means(np.full((n, 1), value), "nq")[:, 0]
        assert percentile_interval(value, draws) == Mean(value, None, None)
