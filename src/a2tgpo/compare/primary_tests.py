"""Test the differences that were named beforehand, over all tasks, with one adjustment for the whole family."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from a2tgpo.compare.comparison import Comparison, by_seed
from a2tgpo.compare.comparison_table import Style, as_interval, as_p, inline, stacked
from a2tgpo.compare.matrix import Matrix
from a2tgpo.errors import RecipeError
from a2tgpo.evaluate.statistics import Difference, holm
from a2tgpo.tables import Rows, markdown_table, terminal_table

Pair = tuple[str, str]
"""A method, and the one that it is compared with."""

MODE = "greedy"
"""Primary tests are of the greedy policy; the sampled one is secondary."""


@dataclass(frozen=True)
class PrimaryTest:
    """Hold exact match of `first` minus `second` on a task, over seeds; None until both have all their runs.

    Attributes:
        p_holm: adjusted for all primary tests of all tasks, of which those that are missing count as p = 1.
    """

    task: str
    first: str
    second: str
    difference: Difference | None
    p_holm: float | None


def read_pairs(listed: str | None, matrix: Matrix) -> list[Pair]:
    """Read `a2tgpo:grpo,a2tgpo:igpo`, rows of the comparison; None names no pair.

    Raises:
        RecipeError: no such pairs, or a method that is not compared.
    """
    if listed is None:
        return []
    pairs = [tuple(name.strip() for name in pair.split(":")) for pair in listed.split(",")]
    if any(len(pair) != 2 or pair[0] == pair[1] for pair in pairs) or len(set(pairs)) < len(pairs):
        raise RecipeError(f"--primary {listed!r}: give pairs of methods by commas, such as a2tgpo:grpo,a2tgpo:igpo")
    if strangers := sorted({name for pair in pairs for name in pair} - matrix.arms.keys()):
        raise RecipeError(f"--primary: {', '.join(strangers)} is not compared; there are {', '.join(matrix.arms)}")
    return [(pair[0], pair[1]) for pair in pairs]


def run_tests(comparisons: Mapping[str, Comparison], pairs: Sequence[Pair]) -> list[PrimaryTest]:
    """Test every pair on every task."""
    found = {(task, *pair): _difference(comparison, pair) for task, comparison in comparisons.items() for pair in pairs}
    adjusted = holm({":".join(key): of.p if of else None for key, of in found.items()})
    return [PrimaryTest(*key, of, adjusted[":".join(key)]) for key, of in found.items()]


def _difference(comparison: Comparison, pair: Pair) -> Difference | None:
    first, second = (comparison.rows[name] for name in pair)
    if not (first.complete and second.complete):
        return None
    key = f"{MODE}/exact_match"
    return Difference.between(by_seed(first, key), by_seed(second, key))


def as_json(tests: Sequence[PrimaryTest]) -> str:
    """Return strict JSON, a list of the tests."""
    return json.dumps([asdict(test) for test in tests], indent=1, allow_nan=False) + "\n"


def as_table(tests: Sequence[PrimaryTest]) -> Table:
    """Make a table for the terminal: intervals below their means."""
    return terminal_table(_TITLE, _HEADER, _rows(tests, stacked))


def as_markdown(tests: Sequence[PrimaryTest]) -> str:
    """Write the text of `primary.md`."""
    return f"## {_TITLE}\n\n{markdown_table(_HEADER, _rows(tests, inline))}\n{_NOTES}"


_TITLE = f"primary tests: exact match, {MODE}"
_HEADER = ["", "task", "difference", "p", "Holm"]
_NOTES = """\
Means over seeds with 95 % t intervals; p of the paired t test over seeds; Holm over all tests of this table, of which
those that are missing count as p = 1.
"""


def _rows(tests: Sequence[PrimaryTest], style: Style) -> Rows:
    return [
        [f"{test.first} − {test.second}", test.task, "incomplete", "–", "–"]
        if test.difference is None
        else [
            f"{test.first} − {test.second}",
            test.task,
            as_interval(test.difference.mean, "+.3f", style),
            as_p(test.difference.p),
            as_p(test.p_holm),
        ]
        for test in tests
    ]
