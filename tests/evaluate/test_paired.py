"""Intervals and tests over seeds, against closed forms and a worked example."""

from __future__ import annotations

import math

import pytest

from a2tgpo.evaluate.paired import Difference, Mean, holm


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


def test_holm() -> None:
    """0.01, 0.03, 0.04 of three: ·3, ·2, ·1, and none below the one before it; a test without p makes the family one
    larger, and nothing exceeds 1."""
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.01, "b": None}) == {"a": 0.02, "b": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
