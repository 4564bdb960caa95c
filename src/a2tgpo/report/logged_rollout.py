"""Read logged rollouts, lines of `rollouts/step_NNNNNN.jsonl`, and what the update made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from a2tgpo.gold import read_aliases
from a2tgpo.text_match import exact_match


@dataclass(frozen=True)
class Segment:
    """Hold a run of tokens by one author: the policy's turn (from 0), or the environment (−1)."""

    turn: int
    text: str
    ids: list[int]


def _floats(values: list[Any] | None) -> list[float]:
    return [float(value) for value in values or ()]


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
    `clip_high` bound the ratio.
    """

    group: int
    id: str
    question: str
    answer: list[str]
    segments: list[Segment]
    termination: str | None
    reason: str
    prediction: str | None
    queries: list[str]
    reward: float | None
    valid: bool
    likelihood: list[float]
    gain: list[float]
    normalized_gain: list[float]
    advantage: list[float]
    clip_low: list[float]
    clip_high: list[float]
    terms: Terms | None = field(default=None, compare=False)
    update: Update | None = field(default=None, compare=False)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Rollout:
        answer, prompt = record["answer"], record["prompt"]
        return cls(
            group=int(record["group"]),
            id=str(record.get("id") or ""),
            question=prompt if isinstance(prompt, str) else str(prompt[-1]["content"]),
            answer=read_aliases(answer, f"rollout {record.get('id')!r}"),
            segments=[Segment(int(s["turn"]), str(s["text"]), list(s["ids"])) for s in record["segments"]],
            termination=record.get("termination"),
            reason=str(record.get("reason") or ""),
            prediction=record.get("prediction"),
            queries=[str(call["query"]) for call in record.get("calls") or []],
            reward=None if record["reward"] is None else float(record["reward"]),
            valid=bool(record["valid"]),
            likelihood=_floats(record.get("likelihood")),
            gain=_floats(record.get("gain")),
            normalized_gain=_floats(record.get("normalized_gain")),
            advantage=_floats(record["advantage"]),
            clip_low=_floats(record["clip_low"]),
            clip_high=_floats(record["clip_high"]),
        )

    @property
    def n_process(self) -> int:
        return len(self.gain)

    @property
    def correct(self) -> bool:
        """Return exact match where the rollout's answer is logged, otherwise a reward above 0."""
        if self.termination is None:
            return self.reward is not None and self.reward > 0
        return exact_match(self.prediction, self.answer)

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
