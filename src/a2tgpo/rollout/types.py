"""Record rollouts: the tokens that the policy and the environment wrote, and how each ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any


class Termination(StrEnum):
    """Say why a rollout ended. Every way is counted; only ANSWERED keeps the format."""

    ANSWERED = "answered"
    OUT_OF_TURNS = "out_of_turns"  # asked for another search with the tool-call budget spent
    OUT_OF_TOKENS = "out_of_tokens"  # the turn, or the next observation, does not fit the token budget
    MALFORMED = "malformed"  # a turn outside the protocol
    ENVIRONMENT_DONE = "environment_done"  # the environment said that the episode is over
    TOOL_FAILED = "tool_failed"  # the tool raised or hung: not the policy's doing, so it earns no reward
    MODEL_FAILED = "model_failed"  # evaluation only: the server of the policy gave this question no answer


NOT_THE_POLICYS = (Termination.TOOL_FAILED, Termination.MODEL_FAILED)
"""Endings that say nothing of the policy: somebody else failed it."""


@dataclass(frozen=True)
class ToolCall:
    """Record one call that was answered.

    Attributes:
        query: the arguments as the policy wrote them.
        passage_ids: of the passages shown, where the answer is passages.
        tool: the tool's name.
        turn: the turn that made the call, from 0.
        seconds: from the turn's end to its answer.
        refused: the environment found the action impossible, and said so.
    """

    query: str
    passage_ids: tuple[str, ...] = ()
    tool: str = "search"
    turn: int = 0
    seconds: float = 0.0
    refused: bool = False


@dataclass
class Rollout:
    """Record one conversation, token by token.

    `completion_ids` holds everything after the prompt in order; `model_mask[i]` is 1 where the policy sampled
    token i and 0 where the environment wrote it (observations, the closing end-of-sequence token). Tokens are never
    decoded and re-encoded: what was sampled is what is trained on.

    Two rollouts of one prompt: `s` tokens of a search turn, `o` of its observation, `a` of an answer, `e` the end:

        completion_ids  [s, s, o, o, a, e]    [a, e]
        model_mask      [1, 1, 0, 0, 1, 0]    [1, 0]
        turn_rewards    [0.5, None]           [None]
        nodes           [0, 2]                [1]

    A rollout that branched off another one has that one's tokens up to there, by whomever they were written.
    `nodes[t]` names the sampled turn that is its turn t: rollouts of a prompt have the same number there if and only if
    they share the turn. `tree` numbers the prompt's trees from 0: rollouts of one tree grew from one first rollout.
    `turn_rewards[t]` is what the environment gave for turn t, None where it gave nothing; `outcome` is its reward for
    the whole episode, `revealed_answer` the gold answer where only the environment knows it, and `success` whether the
    environment calls the episode solved, None where it does not say. `opened` says that the prompt ends inside a
    thought, in which the policy's first turn begins; `observed` is what the environment said first, in the prompt.

    `logps` has, where an engine apart from the policy generates, the log-probability it gave each token of
    `completion_ids`, 0 for the environment's; elsewhere it is empty.
    `turn_texts[t]` is turn t as the protocol read it: without the end-of-sequence token, with the `<think>` that the
    prompt opened.
    `environment` is the object that answered, as the episode left it; the next batch plays on in it.
    """

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    model_mask: list[int] = field(default_factory=list)
    termination: Termination | None = None
    reason: str = ""
    answer: str | None = None
    calls: list[ToolCall] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    tree: int = 0
    turn_rewards: list[float | None] = field(default_factory=list)
    outcome: float | None = None
    revealed_answer: str | list[str] | None = None
    success: bool | None = None
    opened: bool = False
    observed: str = ""
    turn_texts: list[str] = field(default_factory=list)
    environment: Any = field(default=None, repr=False, compare=False)

    def before_turn(self, turn: int, tree: int) -> Rollout:
        """Begin a rollout of `tree` that stands where this one stood before its turn `turn`, 0 for the prompt alone."""
        starts = [i for i, (last, own) in enumerate(pairwise([0, *self.model_mask])) if own > last]
        end = [*starts, len(self.completion_ids)][turn]
        return Rollout(
            self.prompt_ids,
            self.completion_ids[:end],
            self.model_mask[:end],
            calls=[call for call in self.calls if call.turn < turn],
            nodes=self.nodes[:turn],
            logps=self.logps[:end],
            tree=tree,
            turn_rewards=self.turn_rewards[:turn],
            opened=self.opened,
            observed=self.observed,
            turn_texts=self.turn_texts[:turn],
        )

    def append(self, ids: list[int], *, by_policy: bool, logps: Sequence[float] = ()) -> None:
        """Extend the conversation by `ids`, written by the policy, with its engine's `logps` if any, or by the
        environment."""
        assert len(logps) in (0, len(ids)), f"{len(logps)} log-probabilities for {len(ids)} tokens"
        self.completion_ids += ids
        self.model_mask += [int(by_policy)] * len(ids)
        self.logps += logps if by_policy else [0.0] * len(ids) * bool(self.logps)

    def end(self, termination: Termination, reason: str = "") -> None:
        """Close the rollout; `reason` is the sentence a reader of the log sees."""
        assert self.termination is None, f"rollout already ended as {self.termination}"
        self.termination, self.reason = termination, reason

    @property
    def ids(self) -> list[int]:
        """Return the whole context: prompt and completion."""
        return self.prompt_ids + self.completion_ids
