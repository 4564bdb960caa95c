"""Run an agent over questions, or rows of an environment, and score what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from a2tgpo.evaluate.outcome import Measure, Outcome, episode_reward, measure_of
from a2tgpo.evaluate.statistics import Mean, Proportion
from a2tgpo.gold import read_aliases
from a2tgpo.rollout.agent import Agent
from a2tgpo.rollout.engine import GenerationEngine
from a2tgpo.rollout.types import NOT_THE_POLICYS, Rollout, Termination


def evaluate_questions(
    agent: Agent,
    engine: GenerationEngine,
    questions: Sequence[dict[str, Any]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], object] = lambda done: None,
    gives_reward: bool = False,
) -> list[Outcome]:
    """Return one outcome per question, or row of an environment, in order; `progress` hears how many more are done.

    `gives_reward`: see `episode_reward`.
    """
    outcomes: list[Outcome] = []
    for start in range(0, len(questions), batch_size):
        rows = questions[start : start + batch_size]
        rollouts = agent.run([row.get("prompt") or row["question"] for row in rows], engine, rows=rows)
        decoded = [agent.tokenizer.decode(rollout.completion_ids) for rollout in rollouts]
        outcomes += [_outcome(row, r, text, gives_reward) for row, r, text in zip(rows, rollouts, decoded, strict=True)]
        progress(len(rows))
    return outcomes


def _outcome(row: dict[str, Any], rollout: Rollout, text: str, gives_reward: bool) -> Outcome:
    assert rollout.termination is not None
    revealed = read_aliases(rollout.revealed_answer, f"row {row['id']!r}")
    return Outcome.of(
        {**row, "answer": row["answer"] or revealed},
        prediction=rollout.answer,
        termination=rollout.termination.value,
        reason=rollout.reason,
        searches=len(rollout.calls),
        queries=[call.query for call in rollout.calls],
        policy_tokens=sum(rollout.model_mask),
        total_tokens=len(rollout.ids),
        text=text,
        success=rollout.success,
        reward=episode_reward(rollout.outcome, row, rollout.termination, gives_reward=gives_reward),
    )


@dataclass(frozen=True)
class Summary:
    """Summarise a set of outcomes.

    Attributes:
        measure: what `correct` counts.
        correct: right answers, or episodes solved; a rollout that the tool failed counts as neither. None where nobody
            says which are.
        reward: mean of what the environment gave, over the episodes that it did not fail, 0 where it gave nothing; None
            where it never gave anything.
        by_hops: hops -> right answers.
        format_rate: share of rollouts that gave an answer in the protocol's form, in [0, 1].
        searches: calls per rollout.
        terminations: ending -> rollouts.
    """

    measure: Measure
    correct: Proportion | None
    reward: Mean | None
    by_hops: dict[int, Proportion]
    format_rate: float
    searches: float
    terminations: dict[str, int]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Summary:
        """Summarise `outcomes`."""
        measure = measure_of(outcomes)
        played = [outcome for outcome in outcomes if outcome.termination not in NOT_THE_POLICYS]
        rewards = [outcome.reward or 0.0 for outcome in played]
        hops = sorted({outcome.hops for outcome in outcomes if outcome.hops is not None})
        return cls(
            measure=measure,
            correct=None if measure == "reward" else _proportion(outcomes),
            reward=Mean.of(rewards) if any(outcome.reward is not None for outcome in played) else None,
            by_hops={hop: _proportion([o for o in outcomes if o.hops == hop]) for hop in hops},
            format_rate=fmean(o.termination == Termination.ANSWERED.value for o in outcomes),
            searches=fmean(outcome.searches for outcome in outcomes),
            terminations={ending.value: sum(o.termination == ending.value for o in outcomes) for ending in Termination},
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers, with intervals."""
        return {
            **({} if self.correct is None else {self.measure: _as_json(self.correct)}),
            **({} if self.reward is None else {"reward": asdict(self.reward)}),
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
