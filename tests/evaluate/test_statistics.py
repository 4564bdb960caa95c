"""Intervals, tests, the bootstrap and pass@k against closed forms, theory, counting, and worked examples."""

from __future__ import annotations

import math
from itertools import combinations
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.evaluate import statistics
from a2tgpo.evaluate.statistics import (
    Difference,
    Mean,
    Proportion,
    holm,
    pass_at_k,
    percentile_interval,
    resampled_means,
    subtract,
)

# --- Wilson's interval of a share -------------------------------------------------------------------------------------

Z = NormalDist().inv_cdf(0.975)

counts = st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775328),  # z² / (n + z²)
        (10, 10, 0.7224672, 1.0),
        (1, 1, 0.2065493, 1.0),
        (5, 10, 0.2365931, 0.7634069),  # 1/2 ± z / (2 √(n + z²))
        (50, 100, 0.4038315, 0.5961685),
        (15, 148, 0.0623864, 0.1604872),
    ],
)
def test_against_numbers_worked_out_by_hand(hits: int, total: int, low: float, high: float) -> None:
    """Bounds from Wilson's closed form, worked out apart from this code, to seven digits."""
    assert Proportion(hits, total).interval == pytest.approx((low, high), abs=5e-7)


@given(counts)
def test_bounds_are_the_roots_of_wilsons_equation(count: tuple[int, int]) -> None:
    """Each bound b solves |p − b| = z √(b(1 − b)/n), which is what the interval is."""
    share = Proportion(*count)
    for bound in share.interval:
        assert (share.value - bound) ** 2 == pytest.approx(Z**2 * bound * (1 - bound) / share.total, abs=1e-9)


@given(counts)
def test_bounds_enclose_the_share_and_mirror(count: tuple[int, int]) -> None:
    """The interval lies in [0, 1], holds the share, and that of the misses is its mirror image."""
    hits, total = count
    low, high = Proportion(hits, total).interval
    assert 0 <= low <= hits / total + 1e-12 and hits / total - 1e-12 <= high <= 1
    mirrored = Proportion(total - hits, total).interval
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


@given(counts)
def test_more_of_the_same_evidence_narrows_it(count: tuple[int, int]) -> None:
    """Four times the questions with the same share give a narrower interval inside the first."""
    hits, total = count
    low, high = Proportion(hits, total).interval
    inner_low, inner_high = Proportion(4 * hits, 4 * total).interval
    assert low - 1e-12 <= inner_low and inner_high <= high + 1e-12
    assert inner_high - inner_low < high - low


def test_nothing_has_no_share() -> None:
    """Of no questions, neither share nor interval is a number, and nothing raises."""
    nothing = Proportion(0, 0)
    assert math.isnan(nothing.value) and all(map(math.isnan, nothing.interval))


# --- the bootstrap over questions -------------------------------------------------------------------------------------


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
    n = statistics.RESAMPLES
    assert draws.shape == (n,)
    assert abs(draws.mean() - p) < 4 * error / math.sqrt(n)
    assert abs(draws.std() / error - 1) < 4 / math.sqrt(2 * n)
    interval = percentile_interval(p, draws)
    assert interval.low == pytest.approx(p - 1.96 * error, abs=0.15 * error + 1 / total)
    assert interval.high == pytest.approx(p + 1.96 * error, abs=0.15 * error + 1 / total)


def test_it_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 samples of 200 questions with p = 0.3, about 95 % have an interval that holds 0.3 (±4 standard errors of a
    share of 400, and the percentile interval's small shortfall)."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
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


# --- means and differences over seeds ---------------------------------------------------------------------------------


def test_two_values() -> None:
    """With one degree of freedom Student's t is Cauchy: t₀.₉₇₅ = tan(0.475 π), and s/√2 is half the distance."""
    mean = Mean.of([1.0, 3.0])
    assert mean.value == 2.0
    assert mean.low == pytest.approx(2 - math.tan(0.475 * math.pi))
    assert mean.high == pytest.approx(2 + math.tan(0.475 * math.pi))


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3], [0.1 + 0.2, 0.3], [0.0, 0.0]])
def test_no_spread_gives_no_interval(values: list[float]) -> None:
    """One value, equal values, and values that rounding alone tells apart."""
    mean = Mean.of(values)
    assert mean.value == pytest.approx(values[0]) and (mean.low, mean.high) == (None, None)


def test_pairs_matter() -> None:
    """Differences 1 and 3 of far-apart pairs: t = 2 with one degree of freedom, p = 1 − 2·atan(2)/π."""
    difference = Difference.between([11.0, 103.0], [10.0, 100.0])
    assert difference.mean.value == 2.0
    assert difference.p == pytest.approx(1 - 2 * math.atan(2.0) / math.pi)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([0.1 + 0.2, 0.8, 0.9, 0.5], [0.3, 0.1 + 0.7, 0.6 + 0.3, 0.5]),
        ([0.1 + 0.2, 7.0], [0.3, 7.0 + 1e-15]),
        ([-0.3, 0.0], [-0.1 - 0.2, 0.0]),
    ],
)
def test_rounding_is_no_difference(first: list[float], second: list[float]) -> None:
    """Pairs that rounding alone tells apart differ by nothing: no interval, and no p of what is left, 1e-17."""
    assert Difference.between(first, second) == Difference(Mean(0.0, None, None), None)
    assert not subtract(np.array([first]), np.array([second])).any()


def test_a_small_difference_is_one() -> None:
    """What is small beside other pairs counts in full."""
    assert subtract([1e9, 2e-9], [1e9, 1e-9]).tolist() == [0.0, 1e-9]


def test_holm() -> None:
    """0.01, 0.03, 0.04 of three: ·3, ·2, ·1, and none below the one before it; a test without p makes the family one
    larger, and nothing exceeds 1."""
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.01, "b": None}) == {"a": 0.02, "b": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


# --- pass@k -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", range(1, 8))
def test_it_counts_choices(samples: int) -> None:
    """For every c and k: the share of all choices of k samples that hold a correct one, counted one by one."""
    for correct in range(samples + 1):
        for k in range(1, samples + 1):
            choices = list(combinations([True] * correct + [False] * (samples - correct), k))
            assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_it_is_unbiased(p: float, k: int) -> None:
    """Its mean over c ~ Binomial(8, p) is 1 − (1 − p)^k, the chance that one of k fresh samples is right."""
    mean = sum(comb(8, c) * p**c * (1 - p) ** (8 - c) * pass_at_k(8, c, k) for c in range(9))
    assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize("arguments", [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_impossible_counts(arguments: tuple[int, int, int]) -> None:
    """More chosen or more correct than there are, or none chosen, is an error and no number."""
    with pytest.raises(ValueError, match="between"):
        pass_at_k(*arguments)
