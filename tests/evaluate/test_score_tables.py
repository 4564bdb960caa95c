"""Scores as tables: the layout of the paper's Table 1, and what is said beside the numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from a2tgpo.evaluate.score_tables import as_json, as_markdown, as_terminal
from a2tgpo.evaluate.scores import Scores
from tests.evaluate.outcomes import answered, outcome

SEVEN = ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle", "nq", "triviaqa", "popqa")


@pytest.fixture(scope="module")
def scores() -> dict[str, Scores]:
    """Two policies on the paper's seven benchmarks, of sizes 10, 20, … 70, and one of the user's."""
    sizes = {name: 10 * (k + 1) for k, name in enumerate(SEVEN)} | {"mine": 5}
    return {
        "ReAct": Scores.of(answered({name: ("10" * n)[:n] for name, n in sizes.items()})),
        "A²TGPO": Scores.of(answered({name: ("110" * n)[:n] for name, n in sizes.items()})),
    }


def sections(text: str) -> dict[str, list[list[str]]]:
    """Title -> lines of cells of a Markdown text."""
    found = {}
    for part in text.split("## ")[1:]:
        title, table = part.split("\n\n")[:2]
        found[title] = [[cell.strip() for cell in line.split(" | ")] for line in table.strip("| \n").split(" |\n| ")]
    return found


def printed(scores: Mapping[str, Scores], width: int) -> str:
    """The terminal's text."""
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(as_terminal(scores))
    return console.export_text()


def test_table_1(scores: dict[str, Scores]) -> None:
    """Rows are policies; columns the multi-hop benchmarks, the single-hop ones, the user's own and both averages, each
    with its number of questions; cells have their intervals."""
    header, _, react, ours = sections(as_markdown(scores))["exact match, %"]
    assert header == [
        "multi-hop<br>HotpotQA<br>n = 10",
        "multi-hop<br>2Wiki<br>n = 20",
        "multi-hop<br>MuSiQue<br>n = 30",
        "multi-hop<br>Bamboogle<br>n = 40",
        "single-hop<br>NQ<br>n = 50",
        "single-hop<br>TriviaQA<br>n = 60",
        "single-hop<br>PopQA<br>n = 70",
        "others<br>mine<br>n = 5",
        "average<br>over questions<br>n = 285",
        "average<br>over benchmarks<br>n = 8",
    ]
    assert (react[0], ours[0]) == ("ReAct", "A²TGPO")
    assert [cell.split(" [")[0] for cell in react[1:8]] == ["50.0"] * 7
    assert react[8].startswith("60.0 [") and react[9].startswith("50.2 [") and react[10].startswith("51.2 [")
    for name, cell in zip(scores["ReAct"].questions, react[1:], strict=False):
        mean = scores["ReAct"].estimates.benchmarks[name]["exact_match"]
        assert mean.low is not None and mean.high is not None
        assert cell == f"{100 * mean.value:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"


def test_averages_of_groups_and_other_measures(scores: dict[str, Scores]) -> None:
    """Multi-hop and single-hop have both averages too; every measure is there overall and by benchmark, where endings
    stand beside it."""
    found = sections(as_markdown(scores))
    assert found["exact match by group, %"][0] == [
        "multi-hop<br>over questions<br>n = 100",
        "multi-hop<br>over benchmarks<br>n = 4",
        "single-hop<br>over questions<br>n = 180",
        "single-hop<br>over benchmarks<br>n = 3",
    ]
    names = [heading.split("<br>")[1] for heading in found["HotpotQA"][0]]
    assert names == ["exact match", "F1", "contains", "format", "searches", "policy tokens", "all tokens", "answered"]
    assert found["other measures, average over questions"][2][4:] == ["1.00", "9", "40"]
    assert found["how rollouts ended"][2:] == [["ReAct", "285"], ["A²TGPO", "285"]]


@pytest.mark.parametrize("width", [80, 110, 200])
def test_terminal_of_any_width(scores: dict[str, Scores], width: int) -> None:
    """No number and no heading is cut; wide enough, Table 1 is one table, else it breaks between groups alone."""
    text = printed(scores, width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert all(word in text for word in ("n = 70", "over questions", "over benchmarks", "50.0", "all tokens"))
    assert text.count("exact match, %") == {80: 3, 110: 2, 200: 1}[width]
    groups = (["HotpotQA", "2Wiki", "MuSiQue", "Bamboogle"], ["NQ", "TriviaQA", "PopQA"])
    for group in groups:
        assert any(all(f" {name}" in line for name in group) for line in text.splitlines())


def test_an_average_over_fewer_benchmarks_is_not_shown() -> None:
    """A policy without MuSiQue has its other cells, no average beside one that has it, and a sentence on it."""
    both = {"whole": Scores.of(answered({"musique": "10", "nq": "10"})), "part": Scores.of(answered({"nq": "10"}))}
    text = as_markdown(both)
    part = sections(text)["exact match, %"][3]
    assert part[1] == "–" and part[2].startswith("50.0") and part[3:] == ["–", "–"]
    assert [line[0] for line in sections(text)["MuSiQue"][2:]] == ["whole"]
    for shown in (text, printed(both, 80), json.dumps(as_json(both))):
        assert "part has no musique" in shown


def test_a_group_average_needs_no_other_group() -> None:
    """A policy with the multi-hop benchmarks alone still has their average beside one that has more."""
    some, more = answered({"musique": "10", "hotpotqa": "11"}), answered({"nq": "10"})
    found = sections(as_markdown({"more": Scores.of(some + more), "some": Scores.of(some)}))
    assert found["exact match by group, %"][3][1].startswith("75.0")


def test_samples_failures_and_other_questions_are_told() -> None:
    """Sampling, rollouts that a tool or a model server ended, and differing questions each have a sentence in all three
    forms; pass@k has columns; a policy without samples has none of it."""
    failed = [outcome(dataset="nq", id="q9", termination="tool_failed", prediction=None, correct=False)]
    both = {"sampled": Scores.of(answered({"nq": "10/11"})), "greedy": Scores.of(answered({"nq": "10"}) + failed)}
    for shown in (as_markdown(both), printed(both, 300), "\n".join(as_json(both)["notes"])):
        assert "sampled has 2 samples a question; each measure is their mean (mean@k)." in shown
        assert "greedy has rollouts that score 0 though the policy is not to blame: 1 tool_failed." in shown
        assert "nq: not every policy answered the same questions" in shown
    header, _, sampled, greedy = sections(as_markdown(both))["NQ"]
    place = 1 + next(k for k, heading in enumerate(header) if heading.endswith("pass@2"))
    assert sampled[place] == "100.0" and greedy[place] == "–"
    assert "n = 2–3" in as_markdown(both)


def test_mean_at_k_is_in_the_title_where_all_are_sampled() -> None:
    """With two samples of every question the table is one of mean@2."""
    assert "exact match (mean@2), %" in sections(as_markdown({"sampled": Scores.of(answered({"nq": "10/11"}))}))


def test_one_benchmark_has_no_average() -> None:
    """Its average would be itself."""
    header = sections(as_markdown({"one": Scores.of(answered({"nq": "10"}))}))["exact match, %"][0]
    assert header == ["single-hop<br>NQ<br>n = 2"]


def test_names_are_text() -> None:
    """Neither Markdown nor the terminal's markup takes a name for a cell, a tag or a style; a long one is wrapped."""
    name = "Qwen/Qwen3-4B-Instruct-2507 [bold] | <b>"
    scores = {name: Scores.of(answered({"a|b<i>": "10"}))}
    text = as_markdown(scores)
    assert "| Qwen/Qwen3-4B-Instruct-2507 [bold] \\| &lt;b> |" in text and "a\\|b&lt;i>" in text
    terminal = printed(scores, 80)
    assert "[bold] | <b>" in terminal and "a|b<i>" in terminal and "…" not in terminal


def test_json_has_every_number(scores: dict[str, Scores]) -> None:
    """Strict JSON that holds the scores of each policy as they are, and what the intervals are."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(json.dumps(as_json(scores)), parse_constant=refuse)
    for name, of in scores.items():
        assert read["policies"][name] == json.loads(json.dumps(of.as_json()))
    assert read["interval"] == {"kind": "percentile bootstrap over questions", "level": 0.95, "resamples": 5000}
