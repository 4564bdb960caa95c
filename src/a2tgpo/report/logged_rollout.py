"""Read logged rollouts, lines of `rollouts/step_NNNNNN.jsonl`, and what the update made of them.

A log is read as far as it goes: what an environment or an older version left out is empty, a number that is null or not
finite is NaN. Only a line without segments, advantages and bounds is no rollout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from a2tgpo.text_match import exact_match


@dataclass(frozen=True)
class Segment:
    """Hold a run of tokens by one author: the policy's turn (from 0), or the environment (−1)."""

    turn: int
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Call:
    """Hold one tool call: its query, or its name and arguments as text, the ids of what it found, and its seconds."""

    query: str
    passage_ids: list[str] = field(default_factory=list)
    seconds: float | None = None


@dataclass(frozen=True)
class Update:
    """Hold one line of `updates_NNNNNN.jsonl`: how the update at `step` saw the rollout in line `row`.

    Per turn the ratio s and whether the bound held its gradient back; per policy token, in order, log π/π_old.
    """

    row: int
    step: int
    ratio: list[float]
    clipped: list[bool]
    log_ratio: list[float]

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Update:
        return cls(
            int(record["row"]),
            int(record["step"]),
            _floats(record["ratio"]),
            [bool(clipped) for clipped in record["clipped"]],
            _floats(record.get("log_ratio")),
        )


@dataclass(frozen=True)
class Terms:
    """Hold the parts of the advantage: Â = α·accumulated + outcome, the first per process turn."""

    accumulated: list[float]
    outcome: float


@dataclass
class Rollout:
    """Hold what was said and what each turn earned; lists are per turn, those of the gains per process turn.

    A method without gains logs none, and a signal other than information gain no likelihoods. `clip_low` and
    `clip_high` bound the ratio. `file` (below the run) and `line` (from 1) say where the record stands.
    """

    group: int
    id: str
    question: str
    answer: list[str]
    segments: list[Segment]
    termination: str | None
    reason: str
    prediction: str | None
    calls: list[Call]
    reward: float | None
    valid: bool
    likelihood: list[float]
    gain: list[float]
    normalized_gain: list[float]
    advantage: list[float]
    clip_low: list[float]
    clip_high: list[float]
    hops: int | None = None
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    terms: Terms | None = field(default=None, compare=False)
    update: Update | None = field(default=None, compare=False)

    @classmethod
    def from_record(cls, record: dict[str, Any], file: str = "", line: int = 0) -> Rollout:
        """Read a record.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is no rollout.
        """
        reward, hops, prediction = record.get("reward"), record.get("hops"), record.get("prediction")
        return cls(
            group=int(record["group"]),
            id="" if record.get("id") is None else str(record["id"]),
            question=_question(record.get("prompt")),
            answer=_answers(record.get("answer")),
            segments=[
                Segment(int(s["turn"]), str(s["text"]), [int(token) for token in s["ids"]]) for s in record["segments"]
            ],
            termination=None if record.get("termination") is None else str(record["termination"]),
            reason=str(record.get("reason") or ""),
            prediction=None if prediction is None else str(prediction),
            calls=[_call(call) for call in record.get("calls") or ()],
            reward=None if reward is None else float(reward),
            valid=bool(record.get("valid", True)),
            likelihood=_floats(record.get("likelihood")),
            gain=_floats(record.get("gain")),
            normalized_gain=_floats(record.get("normalized_gain")),
            advantage=_floats(record["advantage"]),
            clip_low=_floats(record["clip_low"]),
            clip_high=_floats(record["clip_high"]),
            hops=None if hops is None else int(hops),
            file=file,
            line=line,
        )

    @property
    def n_process(self) -> int:
        return len(self.gain)

    @property
    def correct(self) -> bool:
        """Return exact match where there is a gold answer and our loop read the rollout's, else a reward above 0."""
        if self.termination is None or not self.answer:
            return self.reward is not None and self.reward > 0
        return exact_match(self.prediction, self.answer)

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


def _floats(values: list[Any] | None) -> list[float]:
    return [math.nan if value is None else float(value) for value in values or ()]


def _question(prompt: Any) -> str:
    """Return the text of a prompt, of a chat that of its last message; empty where an environment owns the prompt."""
    if isinstance(prompt, list):
        prompt = prompt[-1] if prompt else None
    if isinstance(prompt, dict):
        prompt = prompt.get("content")
    if isinstance(prompt, list):
        prompt = "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in prompt)
    return "" if prompt is None else str(prompt)


def _answers(answer: Any) -> list[str]:
    if answer is None:
        return []
    return [str(one) for one in answer] if isinstance(answer, list) else [str(answer)]


def _call(call: dict[str, Any]) -> Call:
    query = call["query"] if "query" in call else f"{call.get('name', '')} {call.get('arguments', '')}".strip()
    seconds = call.get("seconds")
    ids = [str(id) for id in call.get("passage_ids") or ()]
    return Call(str(query), ids, None if seconds is None else float(seconds))
