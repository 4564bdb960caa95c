"""The paper's outcome reward in the shape TRL's reward functions have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from a2tgpo.gold import gold_aliases
from a2tgpo.rollout.protocol import unbox
from a2tgpo.rollout.types import Rollout, Termination
from a2tgpo.text_match import exact_match

Completion = str | list[dict[str, Any]]


def exact_match_reward(
    completions: Sequence[Completion],
    answer: Sequence[str | list[str]],
    rollout: Sequence[Rollout] | None = None,
    **_: Any,
) -> list[float | None]:
    """1 for an exact match after SQuAD normalisation, 0 for another answer, −1 for a broken format.

    Source: A²TGPO, arXiv 2605.06200, experimental settings. Works with our rollouts (their typed ending decides the
    format) and with TRL's own tool loop (the last `\\boxed{...}` of the last message decides). A rollout that the
    tool failed gets None: TRL then leaves it out of its group's baseline.

    Args:
        completions: generated text or messages, per rollout.
        answer: gold answer or its aliases, per rollout.
        rollout: our record of each conversation, present with `TagRollout`.
    """
    golds = [gold_aliases(gold, f"rollout {number}") for number, gold in enumerate(answer)]
    if rollout is not None:
        return [_score(record, gold) for record, gold in zip(rollout, golds, strict=True)]
    predictions = [unbox(_last_text(completion)) for completion in completions]
    return [
        -1.0 if prediction is None else float(exact_match(prediction, gold))
        for prediction, gold in zip(predictions, golds, strict=True)
    ]


def _score(rollout: Rollout, gold: list[str]) -> float | None:
    if rollout.termination is Termination.TOOL_FAILED:
        return None
    if rollout.termination is not Termination.ANSWERED:
        return -1.0
    return float(exact_match(rollout.answer, gold))


def _last_text(completion: Completion) -> str:
    if isinstance(completion, str):
        return completion
    return (completion[-1].get("content") or "") if completion else ""
