"""Outcomes written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a2tgpo.evaluate.outcome import Outcome


def outcome(**changes: Any) -> Outcome:
    """A right answer to a one-hop question after one search, with `changes`."""
    values: dict[str, Any] = dict(
        id="q",
        question="Who?",
        answer=["Bora", "Bo"],
        hops=1,
        dataset="hops",
        prediction="bora",
        correct=True,
        f1=1.0,
        contains=True,
        termination="answered",
        reason="",
        searches=1,
        queries=["kelo"],
        policy_tokens=9,
        total_tokens=40,
        text="…",
    )
    return Outcome(**values | changes)


def answered(right: Mapping[str, str]) -> list[Outcome]:
    """Benchmark -> a digit per question, 1 for a right answer; "11/01" are two samples of two questions each.

    Wrong answers have F1 0 and contain nothing.
    """
    return [
        outcome(dataset=name, id=f"q{k}", sample=sample, correct=digit == "1", f1=float(digit), contains=digit == "1")
        for name, samples in right.items()
        for sample, digits in enumerate(samples.split("/"))
        for k, digit in enumerate(digits)
    ]
