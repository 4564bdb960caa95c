"""The interface between a run, which keeps outcomes, and whatever answers the questions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from a2tgpo.evaluate.outcome import Outcome

Key = tuple[str, str, int]
"""Benchmark, question id, sample: what is asked once in a run."""


@dataclass(frozen=True)
class Asked:
    """One question to be answered once; `sample` counts the answers to the same question from 0."""

    row: dict[str, Any]
    sample: int = 0

    @property
    def key(self) -> Key:
        return self.row["dataset"], self.row["id"], self.sample

    def seed(self, base: int) -> int:
        """A seed of its own, the same in every run with seed `base`."""
        return int.from_bytes(hashlib.sha256(repr((base, *self.key)).encode()).digest()[:4], "big") >> 1


class Policy(Protocol):
    """Answers questions.

    `done` gets one outcome for each of `asked`, in any order, as soon as it is there. A failure of one question is an
    outcome that says so; what stops everything is raised, after which the outcomes already given still count.
    """

    def answer(self, asked: Sequence[Asked], done: Callable[[Outcome], None]) -> None: ...
