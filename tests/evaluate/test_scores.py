"""Scores of a run, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import random

import pytest

from a2tgpo.errors import DataError
from a2tgpo.evaluate.scores import ALL, Scores
from a2tgpo.evaluate.statistics import Mean
from tests.evaluate.outcomes import answered, outcome


def test_the_two_averages_differ() -> None:
    """3 of 10, 1 of 2 and 4 of 4: over questions 8/16 = 0.5, over benchmarks (0.3 + 0.5 + 1)/3 = 0.6; of the two
    multi-hop ones 4/12 and 0.4; single-hop has one benchmark and no average of its own."""
    estimates = Scores.of(answered({"popqa": "1111", "hotpotqa": "1110000000", "musique": "10"})).estimates
    assert list(estimates.benchmarks) == ["hotpotqa", "musique", "popqa"]
    assert [of["exact_match"].value for of in estimates.benchmarks.values()] == pytest.approx([0.3, 0.5, 1.0])
    assert list(estimates.averages) == ["multi-hop", ALL]
    everything, multi_hop = estimates.averages[ALL], estimates.averages["multi-hop"]
    assert everything.over_questions["exact_match"].value == pytest.approx(0.5)
    assert everything.over_benchmarks["exact_match"].value == pytest.approx(0.6)
    assert multi_hop.over_questions["exact_match"].value == pytest.approx(4 / 12)
    assert multi_hop.over_benchmarks["exact_match"].value == pytest.approx(0.4)
    assert (everything.n_questions, multi_hop.benchmarks) == (16, ("hotpotqa", "musique"))


def test_intervals_of_the_averages() -> None:
    """Benchmarks are resampled one by one, so variances add: with p = 0.5 of 400 questions and 0.2 of 100, the standard
    error is √Σ w²p(1 − p)/n with w = 4/5, 1/5 over questions and 1/2, 1/2 over benchmarks."""
    average = Scores.of(answered({"nq": "10" * 200, "popqa": "10000" * 20})).estimates.averages[ALL]
    variances = 0.5 * 0.5 / 400, 0.2 * 0.8 / 100
    for found, weights, value in (
        (average.over_questions, (0.8, 0.2), 0.44),
        (average.over_benchmarks, (0.5, 0.5), 0.35),
    ):
        error = math.sqrt(sum(w**2 * variance for w, variance in zip(weights, variances, strict=True)))
        mean = found["exact_match"]
        assert mean.value == pytest.approx(value)
        assert mean.low == pytest.approx(value - 1.96 * error, abs=0.15 * error)
        assert mean.high == pytest.approx(value + 1.96 * error, abs=0.15 * error)


def test_every_measure_and_ending() -> None:
    """Means over all questions, those that gave no answer included; endings are counted by kind, met or not."""
    scores = Scores.of(
        [
            outcome(id="a", searches=3, policy_tokens=30, total_tokens=300),
            outcome(id="b", correct=False, f1=0.5, searches=1, policy_tokens=10, total_tokens=100),
            outcome(id="c", correct=False, f1=0.0, contains=False, prediction=None, termination="malformed"),
            outcome(id="d", correct=False, f1=0.0, contains=False, prediction=None, termination="tool_failed"),
        ]
    )
    means = {name: mean.value for name, mean in scores.estimates.benchmarks["hops"].items()}
    assert means == {
        "exact_match": 0.25,
        "f1": 0.375,
        "contains": 0.5,
        "format_rate": 0.5,
        "searches": 1.5,
        "policy_tokens": 14.5,
        "total_tokens": 120.0,
    }
    met = {kind: count for kind, count in scores.endings["hops"].items() if count}
    assert met == {"answered": 2, "malformed": 1, "tool_failed": 1}
    assert scores.endings["hops"]["out_of_turns"] == 0


def test_samples_of_a_question() -> None:
    """Right in 2 of 4, 4 of 4 and 1 of 5 samples: mean@k is the mean of the shares, not of the samples; pass@2 is
    1 − C(2,2)/C(4,2) = 5/6, 1 and 1 − C(4,2)/C(5,2) = 0.4; k goes up to the 4 samples that every question has."""
    outcomes = answered({"nq": "110/110/010/010"})
    outcomes += [outcome(dataset="nq", id="q2", sample=4, correct=True)]
    scores = Scores.of(outcomes)
    means = scores.estimates.benchmarks["nq"]
    assert scores.samples == (4, 5)
    assert means["exact_match"].value == pytest.approx((0.5 + 1 + 0.2) / 3)
    assert [name for name in means if "@" in name] == ["pass@2", "pass@4"]
    assert means["pass@2"].value == pytest.approx((5 / 6 + 1 + 0.4) / 3)
    assert means["pass@4"].value == pytest.approx((1 + 1 + 0.8) / 3)


def test_the_question_is_the_unit() -> None:
    """Four equal samples of a question tell no more than one: the interval stays as wide."""
    once, often = "1100101001", "/".join(["1100101001"] * 4)
    one, four = (Scores.of(answered({"nq": of})).estimates.benchmarks["nq"]["exact_match"] for of in (once, often))
    assert one == four


def test_neither_order_nor_company_changes_a_number() -> None:
    """Questions finish in any order, and other benchmarks may be there: values and bounds stay the same to the bit."""
    outcomes = answered({"nq": "1101000110", "musique": "10010"})
    shuffled = random.Random(0).sample(outcomes, len(outcomes))
    assert Scores.of(shuffled) == Scores.of(outcomes)
    alone = Scores.of([one for one in outcomes if one.dataset == "nq"])
    assert alone.estimates.benchmarks["nq"] == Scores.of(outcomes).estimates.benchmarks["nq"]


def test_unknown_benchmarks_come_last() -> None:
    """The paper's are in the paper's order, a user's own after them by name, and all count in the averages."""
    scores = Scores.of(answered({"zoo": "1", "bamboogle": "0", "ant": "1", "2wikimultihopqa": "0", "triviaqa": "0"}))
    assert list(scores.questions) == ["2wikimultihopqa", "bamboogle", "triviaqa", "ant", "zoo"]
    assert scores.estimates.averages[ALL].over_questions["exact_match"].value == pytest.approx(0.4)


def test_nothing_and_doubles_are_refused() -> None:
    """No outcomes are no zero; a sample that is there twice would count twice."""
    with pytest.raises(DataError, match="no outcomes"):
        Scores.of([])
    with pytest.raises(DataError, match='hops: sample 0 of question "q" is there twice'):
        Scores.of([outcome(), outcome(correct=False)])


def test_json_is_strict() -> None:
    """Its JSON has numbers and null alone; all questions right have a mean and no bounds."""
    scores = Scores.of(answered({"nq": "11", "popqa": "10"}))
    read = json.loads(json.dumps(scores.as_json(), allow_nan=False))
    assert read["benchmarks"]["nq"]["exact_match"] == {"value": 1.0, "low": None, "high": None}
    assert scores.estimates.benchmarks["nq"]["exact_match"] == Mean(1.0, None, None)
    assert read["n_questions"] == {"nq": 2, "popqa": 2}
    assert read["averages"]["all"]["over_questions"]["exact_match"]["value"] == 0.75
