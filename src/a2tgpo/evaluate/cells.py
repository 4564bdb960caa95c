"""How a measure looks in a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from a2tgpo.evaluate.paired import Mean
from a2tgpo.evaluate.per_question import (
    CONTAINS,
    EXACT_MATCH,
    F1,
    FORMAT,
    POLICY_TOKENS,
    SEARCHES,
    TOTAL_TOKENS,
)

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
    F1: _Look(("answers", "F1"), ".1f", 100),
    CONTAINS: _Look(("answers", "contains"), ".1f", 100),
    FORMAT: _Look(("answers", "format"), ".1f", 100),
    SEARCHES: _Look(("cost", "searches"), ".2f"),
    POLICY_TOKENS: _Look(("cost", "policy tokens"), ".0f"),
    TOTAL_TOKENS: _Look(("cost", "all tokens"), ".0f"),
}


def heading(measure: str) -> tuple[str, str]:
    """What a column of `measure` is called, below what it is about."""
    return _look(measure).heading


def cell(measure: str, mean: Mean | None, style: Style, sign: str = "") -> str:
    """`mean` of `measure` with its interval, shares in percent; `sign` "+" writes the sign of gains too."""
    if mean is None:
        return ABSENT
    look = _look(measure)
    value, *bounds = (
        f"{look.scale * number:{sign}{look.form}}" for number in (mean.value, mean.low, mean.high) if number is not None
    )
    return style(value, *bounds) if bounds else value


def inline(value: str, low: str, high: str) -> str:
    """For Markdown: all on one line."""
    return f"{value} [{low}, {high}]"


def stacked(value: str, low: str, high: str) -> str:
    """For the terminal: the interval below its value, which keeps columns narrow."""
    return f"{value}\n{low} to {high}" if low.startswith(("+", "-")) else f"{value}\n{low}–{high}"


def _look(measure: str) -> _Look:
    return _LOOKS.get(measure) or _Look(("samples", measure), ".1f", 100)
