"""A scripted rollout, tokenised exactly as a sampled one would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.rollout.types import Rollout


@dataclass(frozen=True)
class Lookup:
    """One demonstrated search: what is thought, what is asked, what the tool returned."""

    thought: str
    query: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Demonstration:
    """A question, the searches that lead to its answer, and the answer given (right or not)."""

    question: str
    lookups: tuple[Lookup, ...]
    answer: str


def encode_demonstration(agent: SearchAgent, demonstration: Demonstration) -> dict[str, list[int]]:
    """Token ids and the mask of what a policy would have written.

    Turns and observations are tokenised one by one and concatenated, as in a rollout, so that supervised text and
    sampled text have the same token boundaries. Prompt, observations and the closing end-of-sequence token are masked.

    Returns:
        `input_ids` and `completion_mask` (1 on the policy's tokens), of equal length.
    """
    rollout = Rollout(agent.encode_prompt(demonstration.question))
    for lookup in demonstration.lookups:
        rollout.append(agent.encode_turn(search_turn(lookup.thought, lookup.query)), by_policy=True)
        rollout.append(agent.encode_observation(lookup.passages), by_policy=False)
    rollout.append(agent.encode_turn(answer_turn(demonstration.answer)), by_policy=True)
    rollout.append([agent.tokenizer.eos_token_id], by_policy=False)
    return {
        "input_ids": rollout.ids,
        "completion_mask": [0] * len(rollout.prompt_ids) + rollout.model_mask,
    }


def within(encoded: Sequence[dict[str, list[int]]], max_tokens: int) -> list[dict[str, list[int]]]:
    """Those of at most `max_tokens` tokens: a cut demonstration would teach to stop in mid-sentence."""
    return [row for row in encoded if len(row["input_ids"]) <= max_tokens]
