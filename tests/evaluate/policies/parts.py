"""Questions to ask a policy in tests, and a search that finds the same passage for everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from a2tgpo.evaluate.outcome import Asked, Outcome, Policy
from a2tgpo.retrieval.corpus import Passage

PASSAGE = Passage("p1", "Kelo", "The mentor of Kelo is Bora. " * 40)


def asked(n: int, samples: int = 1) -> list[Asked]:
    """`n` questions whose answer is Bora, each `samples` times."""
    rows: list[dict[str, Any]] = [
        {"id": f"q{i}", "question": f"Who is {i}?", "answer": ["Bora"], "hops": 1, "dataset": "nq"} for i in range(n)
    ]
    return [Asked(row, sample) for row in rows for sample in range(samples)]


def one_passage(queries: Sequence[str]) -> list[list[Passage]]:
    """A search that works."""
    return [[PASSAGE] for _ in queries]


def outcomes_of(policy: Policy, questions: Sequence[Asked]) -> list[Outcome]:
    """What `policy` answers, in the order of `questions`."""
    found: list[Outcome] = []
    policy.answer(questions, found.append)
    by_key = {(outcome.dataset, outcome.id, outcome.sample): outcome for outcome in found}
    assert len(by_key) == len(found) == len(questions)
    return [by_key[question.key] for question in questions]
