"""Tokenise scripted rollouts exactly as sampled ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.environments.environment import Action
from a2tgpo.errors import DataError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.rollout.types import Rollout
from a2tgpo.signals.answer_likelihood.scaffold import opens_thought


@dataclass(frozen=True)
class Lookup:
    """Hold one demonstrated search: the thought, the query, and what the tool returned."""

    thought: str
    query: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Demonstration:
    """Hold a question, the searches that lead to its answer, and the answer given (right or not)."""

    question: str
    lookups: tuple[Lookup, ...]
    answer: str


def encode_demonstration(agent: SearchAgent, demonstration: Demonstration) -> dict[str, list[int]]:
    """Return token ids and mask of a rollout that a policy would have written.

    Turns and observations are tokenised one by one and concatenated, as in a rollout, so that supervised text and
    sampled text have the same token boundaries. Prompt, observations and the closing end-of-sequence token are masked.
    A turn whose prompt opens the thought begins inside it.

    Returns:
        `input_ids` and `completion_mask` (1 on the policy's tokens), of equal length.
    """
    rollout = Rollout(agent.encode_prompt(demonstration.question))
    opening = "<think> " if opens_thought(agent.tokenizer, rollout.prompt_ids) else ""
    for lookup in demonstration.lookups:
        turn = search_turn(lookup.thought, lookup.query).removeprefix(opening)
        rollout.append(agent.encode_turn(turn), by_policy=True)
        seen = [(Action("search", lookup.query), lookup.passages)]
        rollout.append(agent.protocol.show(seen, rollout.prompt_ids), by_policy=False)
    rollout.append(agent.encode_turn(answer_turn(demonstration.answer).removeprefix(opening)), by_policy=True)
    rollout.append([agent.tokenizer.eos_token_id], by_policy=False)
    return {
        "input_ids": rollout.ids,
        "completion_mask": [0] * len(rollout.prompt_ids) + rollout.model_mask,
    }


def within(encoded: Sequence[dict[str, list[int]]], limits: RolloutLimits) -> list[dict[str, list[int]]]:
    """Keep those that a rollout could have been: a cut one would teach to stop short, a longer one to overrun.

    Raises:
        DataError: none is left.
    """
    kept = [row for row in encoded if _fits(row["completion_mask"], limits)]
    if encoded and not kept:
        raise DataError(
            f"none of {len(encoded)} demonstrations keeps to the budgets of a rollout ({limits}); raise "
            "max_completion_length, max_turn_tokens or max_searches, or set warm_start_steps: 0"
        )
    return kept


def _fits(written: list[int], limits: RolloutLimits) -> bool:
    completion = written[written.index(1) :]
    turns = [len(list(run)) for by_policy, run in itertools.groupby(completion) if by_policy]
    return (
        len(completion) <= limits.max_completion_tokens
        and len(turns) <= limits.max_searches + 1
        and max(turns) <= limits.max_turn_tokens
    )
