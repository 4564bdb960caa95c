"""Make the parts of tables of scores: cells of a measure, columns that fit a terminal of any width, notes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from a2tgpo.evaluate.benchmarks import in_order
from a2tgpo.evaluate.scores import (
    CONTAINS,
    EXACT_MATCH,
    F1,
    FORMAT,
    POLICY_TOKENS,
    REWARD,
    SEARCHES,
    SUCCESS,
    TOTAL_TOKENS,
    Scores,
)
from a2tgpo.evaluate.statistics import RESAMPLES, Mean
from a2tgpo.rollout.types import NOT_THE_POLICYS
from a2tgpo.tables import markdown_table, terminal_table

Style = Callable[[str, str, str], str]
"""A cell from a value and the two ends of its interval."""

ABSENT = "–"


@dataclass(frozen=True)
class _Look:
    heading: tuple[str, str]
    form: str
    scale: float = 1.0


_LOOKS = {
    EXACT_MATCH: _Look(("answers", "exact match"), ".1f", 100),
    SUCCESS: _Look(("episodes", "success"), ".1f", 100),
    REWARD: _Look(("episodes", "reward"), ".3f"),
    F1: _Look(("answers", "F1"), ".1f", 100),
    CONTAINS: _Look(("answers", "contains"), ".1f", 100),
    FORMAT: _Look(("answers", "format"), ".1f", 100),
    SEARCHES: _Look(("cost", "searches"), ".2f"),
    POLICY_TOKENS: _Look(("cost", "policy tokens"), ".0f"),
    TOTAL_TOKENS: _Look(("cost", "all tokens"), ".0f"),
}


def heading(measure: str) -> tuple[str, str]:
    """Return what a column of `measure` is about, and its name below that."""
    return _look(measure).heading


def label(measure: str, rest: str = "") -> str:
    """Return the name of `measure` and `rest`, with the unit where it is a share."""
    look = _look(measure)
    return f"{look.heading[1]}{rest}{', %' if look.scale == 100 else ''}"


def cell(measure: str, mean: Mean | None, style: Style, sign: str = "") -> str:
    """Write `mean` of `measure` with its interval, shares in percent; `sign` "+" writes the sign of gains too."""
    if mean is None:
        return ABSENT
    look = _look(measure)
    value, *bounds = (
        f"{look.scale * number:{sign}{look.form}}" for number in (mean.value, mean.low, mean.high) if number is not None
    )
    return style(value, *bounds) if bounds else value


def inline(value: str, low: str, high: str) -> str:
    """Write a cell for Markdown: all on one line."""
    return f"{value} [{low}, {high}]"


def stacked(value: str, low: str, high: str) -> str:
    """Write a cell for the terminal: the interval below its value, which keeps columns narrow."""
    return f"{value}\n{low} to {high}" if low.startswith(("+", "-")) else f"{value}\n{low}–{high}"


def _look(measure: str) -> _Look:
    return _LOOKS.get(measure) or _Look(("samples", measure), ".1f", 100)


_NAME_WIDTH = 18


@dataclass(frozen=True)
class Column:
    """Hold a heading of one or more lines, and a cell for each row. Columns whose first lines agree belong together."""

    heading: tuple[str, ...]
    cells: list[str]


@dataclass(frozen=True)
class Part:
    """Hold a table with named rows."""

    title: str
    rows: list[str]
    columns: list[Column]


@dataclass(frozen=True)
class Fitted:
    """Print a part in as few tables as the terminal's width allows; columns that belong together stay together."""

    part: Part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(width=10 * options.max_width)
        columns: list[Column] = []
        for _, together in groupby(self.part.columns, key=lambda column: column.heading[0]):
            longer = [*columns, *together]
            if columns and Measurement.get(console, unbounded, _table(self.part, longer)).maximum > options.max_width:
                yield _table(self.part, columns)
                longer = longer[len(columns) :]
            columns = longer
        yield _table(self.part, columns)
        yield ""


def markdown(part: Part) -> str:
    """Write the part as a section."""
    header = ["", *("<br>".join(map(_plain, column.heading)) for column in part.columns)]
    rows = [[_plain(name), *cells] for name, cells in zip(part.rows, _by_row(part.columns), strict=True)]
    return f"## {_plain(part.title)}\n\n{markdown_table(header, rows)}"


def _table(part: Part, columns: Sequence[Column]) -> Table:
    header = ["", *(escape("\n".join(column.heading)) for column in columns)]
    names = (escape("\n".join(textwrap.wrap(name, _NAME_WIDTH))) for name in part.rows)
    rows = [[name, *map(escape, cells)] for name, cells in zip(names, _by_row(columns), strict=True)]
    return terminal_table(escape(part.title), header, rows)


def _by_row(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))


def _plain(text: str) -> str:
    """Return text that ends no cell and starts no tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


LEGEND = f"""\
Shares are in percent. Intervals are 95 % percentile bootstrap intervals over questions ({RESAMPLES} resamples); where
all questions score the same there is none. Exact match, F1 and containment compare normal forms as SQuAD does, with
every alias. The average over questions weighs a benchmark by its number of questions, as the paper's does; the average
over benchmarks weighs all alike. A rollout without an answer scores 0, whatever ended it.
"""


def notes(scores: Mapping[str, Scores]) -> list[str]:
    """Say what makes policies differ other than themselves: benchmarks, questions, samples, failed tools."""
    benchmarks = in_order({name for of in scores.values() for name in of.questions})
    return [
        *(note for name, of in scores.items() for note in _of_policy(name, of, benchmarks)),
        *(
            f"{name}: not every policy answered the same questions; compare two on the shared ones with `--compare`."
            for name in benchmarks
            if len({of.questions[name] for of in scores.values() if name in of.questions}) > 1
        ),
    ]


def _of_policy(name: str, scores: Scores, benchmarks: list[str]) -> list[str]:
    found = []
    if absent := [benchmark for benchmark in benchmarks if benchmark not in scores.questions]:
        found.append(f"{name} has no {', '.join(absent)}, so it has no average that needs one.")
    fewest, most = scores.samples
    if most > 1:
        count = str(most) if fewest == most else f"{fewest} to {most}"
        found.append(f"{name} has {count} samples a question; each measure is their mean (mean@k).")
    failed = {kind: sum(of[kind] for of in scores.endings.values()) for kind in NOT_THE_POLICYS}
    if any(failed.values()):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in failed.items() if count)
        found.append(f"{name} has rollouts that score 0 though the policy is not to blame: {kinds}.")
    return found
