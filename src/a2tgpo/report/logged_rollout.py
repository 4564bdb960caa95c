"""Hold a logged rollout as the report reads it: plain texts and lists, empty where the log has nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from a2tgpo.evaluate.outcome import Measure
from a2tgpo.gold import read_aliases
from a2tgpo.pipeline.rollout_log import LoggedCall, LoggedSegment, RolloutRecord, UpdateRecord
from a2tgpo.text_match import exact_match

ENDED_WELL = ("answered", "environment_done")
"""Endings that need no explanation: the policy answered, or the environment said that the episode is over."""


@dataclass(frozen=True)
class Terms:
    """Hold the parts of the advantage: Â = α·accumulated + outcome, the first per turn that process credit reaches: the
    process turns, and with the baselines "absorbing" and "active" the one that stopped."""

    accumulated: list[float]
    outcome: float


@dataclass
class Rollout:
    """Hold what was said and what each turn earned; lists are per turn, those of the gains per process turn.

    A method without gains logs none, and a signal other than information gain no likelihoods. `observed` is what the
    environment said first. `notes` are a judge's words on each process turn, `unscored` says why it had none.
    `clip_low` and `clip_high` bound the ratio. `file` (below the run) and `line` (from 1) say where the record stands.
    """

    group: int
    id: str
    question: str
    answer: list[str]
    segments: list[LoggedSegment]
    termination: str | None
    reason: str
    prediction: str | None
    calls: list[LoggedCall]
    reward: float | None
    valid: bool
    likelihood: list[float]
    gain: list[float]
    normalized_gain: list[float]
    advantage: list[float]
    clip_low: list[float]
    clip_high: list[float]
    hops: int | None = None
    success: bool | None = None
    observed: str = ""
    notes: list[str] = field(default_factory=list)
    unscored: str | None = None
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    terms: Terms | None = field(default=None, compare=False)
    update: UpdateRecord | None = field(default=None, compare=False)

    @classmethod
    def of(cls, record: RolloutRecord, file: str = "", line: int = 0) -> Rollout:
        """Take over a record of the log.

        Raises:
            ValueError, TypeError: a value that is not of its kind.
        """
        return cls(
            group=int(record.group),
            id="" if record.id is None else str(record.id),
            question=_question(record.prompt),
            answer=read_aliases(record.answer, f"rollout {record.id!r}"),
            segments=record.segments,
            termination=None if record.termination is None else str(record.termination),
            reason=str(record.reason or ""),
            prediction=None if record.prediction is None else str(record.prediction),
            calls=record.calls,
            reward=None if record.reward is None else float(record.reward),
            valid=bool(record.valid),
            likelihood=record.likelihood or [],
            gain=record.gain or [],
            normalized_gain=record.normalized_gain or [],
            advantage=record.advantage,
            clip_low=record.clip_low,
            clip_high=record.clip_high,
            hops=None if record.hops is None else int(record.hops),
            success=None if record.success is None else bool(record.success),
            observed=str(record.observed or ""),
            notes=record.notes or [],
            unscored=None if record.unscored is None else str(record.unscored),
            file=file,
            line=line,
        )

    @property
    def n_process(self) -> int:
        return len(self.gain)

    @property
    def measure(self) -> Measure:
        """Name what says how good the rollout is: the environment's word where there is one; else exact match where
        there is a gold answer and our loop read the rollout's; else the reward, as where an environment ended the
        episode before an answer."""
        if self.success is not None:
            return "success"
        unread = self.termination is None or (self.termination == "environment_done" and self.prediction is None)
        return "reward" if unread or not self.answer else "exact_match"

    @property
    def correct(self) -> bool:
        """Tell whether the rollout is right by its measure; a reward is where it is above 0."""
        if self.measure == "exact_match":
            return exact_match(self.prediction, self.answer)
        return self.success if self.success is not None else self.reward is not None and self.reward > 0

    @property
    def finite(self) -> bool:
        """Tell whether every number that credit is made of is one."""
        numbers = [*self.likelihood, *self.gain, *self.normalized_gain, *self.advantage]
        return all(map(math.isfinite, numbers)) and (self.reward is None or math.isfinite(self.reward))

    @property
    def n_policy_tokens(self) -> int:
        return sum(len(segment.ids) for segment in self.segments if segment.turn >= 0)

    @property
    def n_tokens(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)


@dataclass(frozen=True)
class Batch:
    """Hold the rollouts of one generation batch; `step` is the first update that learns from them.

    The metrics of that step describe the batch; the steps done when it was drawn, one less, name its file.
    """

    step: int
    rollouts: list[Rollout]

    def groups(self) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield the rollouts of each prompt, in order."""
        found: dict[int, list[Rollout]] = {}
        for rollout in self.rollouts:
            found.setdefault(rollout.group, []).append(rollout)
        yield from found.items()


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _question(prompt: Any) -> str:
    """Return the text of a prompt, of a chat that of its last message; empty where an environment owns the prompt."""
    if isinstance(prompt, list):
        prompt = prompt[-1] if prompt else None
    if isinstance(prompt, dict):
        prompt = prompt.get("content")
    if isinstance(prompt, list):
        prompt = "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in prompt)
    return "" if prompt is None else str(prompt)
