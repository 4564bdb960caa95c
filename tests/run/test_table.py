"""The final table: the same numbers on the terminal and in the file, within 80 columns."""

from __future__ import annotations

import io

from rich.console import Console

from a2tgpo.evaluate.questions import Summary
from a2tgpo.evaluate.statistics import Proportion
from a2tgpo.run.table import as_markdown, as_table, summary_rows


def summary(hits: int, by_hops: dict[int, tuple[int, int]]) -> Summary:
    """`hits` of 100, and shares by hops."""
    return Summary(
        exact_match=Proportion(hits, 100),
        by_hops={hops: Proportion(*share) for hops, share in by_hops.items()},
        format_rate=0.9876,
        searches=2.346,
        terminations={},
    )


SUMMARIES = {
    "before, sampled": summary(0, {1: (0, 40), 2: (0, 60)}),
    "after, sampled": summary(50, {2: (25, 50), 3: (50, 50)}),
}


def test_rows() -> None:
    """One row a summary and one column a hop count that any has; a cell is the share and its interval, or empty."""
    header, rows = summary_rows(SUMMARIES)
    assert header == ["", "exact match", "1 hop", "2 hops", "3 hops", "searches", "format"]
    assert rows[0] == [
        *("before, sampled", "0.000 [0.00, 0.04]", "0.000 [0.00, 0.09]", "0.000 [0.00, 0.06]", ""),
        *("2.35", "0.988"),
    ]
    assert rows[1][1:5] == ["0.500 [0.40, 0.60]", "", "0.500 [0.37, 0.63]", "1.000 [0.93, 1.00]"]


def test_markdown() -> None:
    """The file's table has a header, a rule and the rows, all with the same number of cells."""
    lines = as_markdown(SUMMARIES).splitlines()
    last = "| after, sampled | 0.500 [0.40, 0.60] |  | 0.500 [0.37, 0.63] | 1.000 [0.93, 1.00] | 2.35 | 0.988 |"
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {8}
    assert lines[0].startswith("|  | exact match | 1 hop |")
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[-1] == last


def test_it_fits_a_terminal() -> None:
    """With three hop counts, 80 columns show every number whole, each interval below its share."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table(SUMMARIES, "title"))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    for cell in ("before, sampled", "0.500", "0.40–0.60", "0.93–1.00", "exact match", "searches", "format"):
        assert cell in text
