"""Two runs compared: paired differences by hand, and what happens to questions that one run lacks."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence

import pytest
from rich.console import Console

from a2tgpo.errors import DataError
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.evaluate.paired_comparison import PairedComparison, compare
from a2tgpo.evaluate.score_tables import difference_as_json, difference_as_markdown, difference_as_terminal
from a2tgpo.evaluate.scores import ALL
from tests.evaluate.outcomes import answered, outcome


def differences(comparison: PairedComparison) -> dict[str, float]:
    """Exact match of the first minus that of the second, by benchmark and average."""
    average = comparison.difference.averages[ALL]
    return {
        **{name: of["exact_match"].value for name, of in comparison.difference.benchmarks.items()},
        "over questions": average.over_questions["exact_match"].value,
        "over benchmarks": average.over_benchmarks["exact_match"].value,
    }


def test_differences_by_hand() -> None:
    """NQ gains 2 of 4 and loses 1; PopQA gains 1 of 1. Over questions 2/5, over benchmarks (1/4 + 1)/2."""
    comparison = compare(answered({"nq": "1101", "popqa": "1"}), answered({"nq": "0011", "popqa": "0"}))
    assert differences(comparison) == pytest.approx(
        {"nq": 0.25, "popqa": 1.0, "over questions": 0.4, "over benchmarks": 0.625}
    )
    assert comparison.first.estimates.benchmarks["nq"]["exact_match"].value == 0.75
    assert comparison.second.estimates.benchmarks["nq"]["exact_match"].value == 0.5
    assert comparison.only_first == comparison.only_second == {}


def test_pairs_narrow_the_interval() -> None:
    """Runs that agree but for 20 gains and 4 losses in 400: the standard error is that of the differences,
    √((24/400 − (16/400)²)/400), and far below that of two unpaired shares."""
    common = "10" * 188
    first, second = answered({"nq": common + "1" * 20 + "0" * 4}), answered({"nq": common + "0" * 20 + "1" * 4})
    mean = compare(first, second).difference.benchmarks["nq"]["exact_match"]
    error = math.sqrt((24 / 400 - (16 / 400) ** 2) / 400)
    assert mean.value == pytest.approx(0.04)
    assert mean.low == pytest.approx(0.04 - 1.96 * error, abs=0.15 * error)
    assert mean.high == pytest.approx(0.04 + 1.96 * error, abs=0.15 * error)
    assert error < 0.4 * math.sqrt(2 * 0.25 / 400)


def test_a_run_differs_from_itself_by_nothing() -> None:
    """0 without an interval in every measure, and the order of a run's lines is of no account."""
    run = answered({"nq": "1101", "musique": "01/11"})
    found = compare(run, run[::-1]).difference
    for of in (*found.benchmarks.values(), found.averages[ALL].over_questions, found.averages[ALL].over_benchmarks):
        assert {(mean.value, mean.low, mean.high) for mean in of.values()} == {(0.0, None, None)}


def test_swapping_the_runs_swaps_the_sign() -> None:
    """Value and bounds change sign, and the bounds places."""
    first, second = answered({"nq": "1101101000"}), answered({"nq": "0011100000"})
    one = compare(first, second).difference.benchmarks["nq"]["exact_match"]
    two = compare(second, first).difference.benchmarks["nq"]["exact_match"]
    assert one.low is not None and one.high is not None
    assert (two.value, two.low, two.high) == pytest.approx((-one.value, -one.high, -one.low))


def test_only_shared_questions_count_and_the_rest_is_counted() -> None:
    """The first run stopped after 3 of 5 NQ questions and has Bamboogle alone; the second has PopQA alone. Three
    questions are compared, and the others are in the result and in every rendering."""
    first = answered({"nq": "110", "bamboogle": "11"})
    second = answered({"nq": "01011", "popqa": "1111"})
    comparison = compare(first, second)
    assert comparison.first.questions == comparison.second.questions == {"nq": ("q0", "q1", "q2")}
    assert comparison.difference.benchmarks["nq"]["exact_match"].value == pytest.approx(1 / 3)
    assert comparison.only_first == {"bamboogle": 2} and comparison.only_second == {"nq": 2, "popqa": 4}
    for text in renderings(comparison):
        assert "Only A has 2 of bamboogle: left out here." in text
        assert "Only B has 2 of nq, 4 of popqa: left out here." in text


def test_samples_are_averaged_before_they_are_compared() -> None:
    """Right in 2 of 4 samples minus right in the only one: 0.5 − 1; the renderings say who was sampled."""
    comparison = compare(answered({"nq": "1/0/1/0"}), answered({"nq": "1"}))
    assert comparison.difference.benchmarks["nq"]["exact_match"].value == -0.5
    assert not [name for name in comparison.difference.benchmarks["nq"] if "@" in name]
    assert all("A has 4 samples a question" in text for text in renderings(comparison))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (answered({"popqa": "11"}), "the first has 2 of nq, the second 2 of popqa"),
        ([], "the second none"),
        ([outcome(dataset="nq", id="q0", question="When?")], 'question "q0": the first run answered .Who'),
        ([outcome(dataset="nq", id="q0", answer=["Tine"])], "compare runs on the same questions"),
        ([outcome(dataset="nq", id="q0")] * 2, "there twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(second: Sequence[Outcome], message: str) -> None:
    """No shared question, one id for two questions, other accepted answers, doubled lines."""
    with pytest.raises(DataError, match=message):
        compare(answered({"nq": "10"}), second)


def test_tables() -> None:
    """Both shares and their difference stand in one row, in percent and with a sign, in 80 columns as in Markdown."""
    terminal, text = renderings(compare(answered({"nq": "1101", "popqa": "1"}), answered({"nq": "0011", "popqa": "0"})))
    assert "…" not in terminal and "+25.0" in terminal and "+40.0" in terminal and "+62.5" in terminal
    row = next(line for line in text.splitlines() if line.startswith("| PopQA |"))
    assert row == "| PopQA | 1 | 100.0 | 0.0 | +100.0 |"
    assert "| average over questions | 5 | 80.0 [" in text and "| average over benchmarks | 5 | 87.5 [" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_benchmarks_of_one_heading_keep_their_rows() -> None:
    """A user's "NQ" beside the paper's nq, which is shown as NQ too."""
    run = answered({"nq": "10", "NQ": "1"})
    lines = renderings(compare(run, run))[1].splitlines()
    rows = [line.split(" | ")[1] for line in lines if line.startswith("| NQ |")]
    assert rows == ["2", "1", "+0.0", "+0.0"]


def test_json() -> None:
    """Strict JSON with the names, both runs' scores, and the differences as shares."""
    comparison = compare(answered({"nq": "1101"}), answered({"nq": "00110"}))
    read = json.loads(json.dumps(difference_as_json(comparison, "runs/a", "runs/b"), allow_nan=False))
    assert (read["first"]["name"], read["second"]["name"], read["second"]["only"]) == ("runs/a", "runs/b", {"nq": 1})
    assert read["first"]["benchmarks"]["nq"]["exact_match"]["value"] == 0.75
    assert read["first_minus_second"]["benchmarks"]["nq"]["exact_match"]["value"] == 0.25


def renderings(comparison: PairedComparison) -> tuple[str, str]:
    """The comparison in a terminal of 80 columns, with unbroken lines, and in Markdown."""
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(difference_as_terminal(comparison, "runs/a", "runs/b"))
    return console.export_text(), difference_as_markdown(comparison, "runs/a", "runs/b")
