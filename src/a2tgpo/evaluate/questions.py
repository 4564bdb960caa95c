"""Run an agent over questions and score its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.evaluate.statistics import Proportion
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.engine import GenerationEngine
from a2tgpo.rollout.types import Rollout, Termination


def evaluate_questions(
    agent: SearchAgent,
    engine: GenerationEngine,
    questions: Sequence[dict[str, Any]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Outcome]:
    """Return one outcome per question, in order; `progress` is told how many more are done."""
    outcomes: list[Outcome] = []
    for start in range(0, len(questions), batch_size):
        rows = questions[start : start + batch_size]
        rollouts = agent.run([row["question"] for row in rows], engine)
        decoded = [agent.tokenizer.decode(rollout.completion_ids) for rollout in rollouts]
        outcomes += [_outcome(row, r, text) for row, r, text in zip(rows, rollouts, decoded, strict=True)]
        progress(len(rows))
    return outcomes


def _outcome(row: dict[str, Any], rollout: Rollout, text: str) -> Outcome:
    assert rollout.termination is not None
    return Outcome.of(
        row,
        prediction=rollout.answer,
        termination=rollout.termination.value,
        reason=rollout.reason,
        searches=len(rollout.calls),
        queries=[call.query for call in rollout.calls],
        policy_tokens=sum(rollout.model_mask),
        total_tokens=len(rollout.ids),
        text=text,
    )


@dataclass(frozen=True)
class Summary:
    """Summarise a set of outcomes. A rollout that the tool failed counts as wrong and in `terminations`."""

    exact_match: Proportion
    by_hops: dict[int, Proportion]
    format_rate: float
    searches: float
    terminations: dict[str, int]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Summary:
        """Summarise `outcomes`."""
        hops = sorted({outcome.hops for outcome in outcomes if outcome.hops is not None})
        return cls(
            exact_match=_proportion(outcomes),
            by_hops={hop: _proportion([o for o in outcomes if o.hops == hop]) for hop in hops},
            format_rate=fmean(o.termination == Termination.ANSWERED.value for o in outcomes),
            searches=fmean(outcome.searches for outcome in outcomes),
            terminations={ending.value: sum(o.termination == ending.value for o in outcomes) for ending in Termination},
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers, with intervals."""
        return {
            "exact_match": _as_json(self.exact_match),
            "by_hops": {str(hop): _as_json(share) for hop, share in self.by_hops.items()},
            "format_rate": self.format_rate,
            "searches": self.searches,
            "terminations": self.terminations,
        }


def _proportion(outcomes: Sequence[Outcome]) -> Proportion:
    return Proportion(sum(outcome.correct for outcome in outcomes), len(outcomes))


def _as_json(share: Proportion) -> dict[str, Any]:
    low, high = share.interval
    return {"value": share.value, "low": low, "high": high, "hits": share.hits, "total": share.total}
