"""Collect whatever a method's credit rule reads of each turn, beside the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core import turn_mean
from a2tgpo.methods import Method
from a2tgpo.pipeline.batch import RolloutBatch, Segment
from a2tgpo.pipeline.prefix_tree import shared_turns
from a2tgpo.rollout.types import Rollout
from a2tgpo.signals import ProcessSignal, SignalReading, Transcript, read_signal, transcripts

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class TurnSignals:
    """Hold the signals of B rollouts of one process, T turns at most; what the method does not read is None.

    Two rollouts of one prompt, the first with a search that made the answer likelier:

        likelihood    [[.1, .6, 0], [.1, 0, 0]]     after the prompt and after each observation, [B, T+1]
        value         None                          instead of a likelihood: one number per process turn
        entropy       [[.9, .2], [.3, 0]]           mean over each turn's tokens, in nats
        tree, node    [0, 1], [[0, 1], [2, −1]]     prefix tree of each rollout, sampled turn behind each turn
        observations  [["", "[1] Kelo …"], [""]]    text before each turn, from which anchor states are numbered
        notes         [["finds the name"], []]      what the signal said of each process turn
        unscored      [None, "too_slow: …"]         why a rollout has no value, which excludes it from the loss
    """

    likelihood: Float[Tensor, "B T+1"] | None = None
    value: Float[Tensor, "B T"] | None = None
    entropy: Float[Tensor, "B T"] | None = None
    tree: Int[Tensor, " B"] | None = None
    node: Int[Tensor, "B T"] | None = None
    observations: list[list[str]] | None = None
    notes: list[list[str]] | None = None
    unscored: list[str | None] | None = None


def collect_signals(
    batch: RolloutBatch,
    method: Method,
    tokenizer: PreTrainedTokenizerBase,
    *,
    likelihood: Float[Tensor, "B T+1"] | None = None,
    process_signal: ProcessSignal | None = None,
    turn_rewards: bool = False,
    entropies: Float[Tensor, "B L"] | None = None,
) -> TurnSignals:
    """Collect what `method` reads of `batch`.

    Args:
        tokenizer: the policy's, which decodes what signals and anchor states read as text.
        likelihood: the gold answer's at each turn boundary, where gains are read from the policy or a reference.
        process_signal: numbers the turns where there is no `likelihood`.
        turn_rewards: the environment numbered the turns, by its own rewards.
        entropies: of the policy at each completion token, in nats, for methods that read them.

    Raises:
        SignalError: `process_signal` gave no usable number for a turn.
        ValueError: rollouts without records, of a method that needs to know which turns they share, or whose turns an
            environment rewarded.
    """
    n_columns, device = batch.boundaries.is_process.size(1), batch.model_mask.device
    value = entropy = tree = node = observations = None
    reading: SignalReading | None = None
    if method.signal and turn_rewards:
        value = environment_rewards(batch.records, n_columns).to(device)
    elif method.signal and likelihood is None:
        assert process_signal is not None, "a method that reads gains needs a likelihood or a process signal"
        reading = read_signal(process_signal, _transcripts(batch, tokenizer))
        value = reading.numbers.to(device)
    if "entropy" in method.credit.reads:
        assert entropies is not None, "this method reads entropies"
        entropy = turn_mean(entropies, batch.turn_ids, n_columns)
    if method.shares_turns:
        tree, node = shared_turns(batch.records, batch.boundaries.n_turns, n_columns)
    if "state" in method.credit.reads:
        observations = [_before_each_turn(segments, tokenizer) for segments in batch.segments()]
    said = (None, None) if reading is None else (reading.notes, reading.unscored)
    return TurnSignals(likelihood, value, entropy, tree, node, observations, *said)


def environment_rewards(records: Sequence[Rollout | None], n_columns: int) -> Float[Tensor, "B T"]:
    """Return the environment's reward of each turn, 0 where it gave none.

    Raises:
        ValueError: a rollout without a record, of which nobody knows the rewards.
    """
    rewards = torch.zeros(len(records), n_columns)
    for row, record in enumerate(records):
        if record is None:
            raise ValueError(
                f"rollout {row} has no record of its turns' rewards, which process_signal='environment' reads; pass "
                "rollout_func=TagRollout(Agent(...)) over an environment whose step returns rewards"
            )
        given = [reward or 0.0 for reward in record.turn_rewards[:n_columns]]
        rewards[row, : len(given)] = torch.tensor(given)
    return rewards


def _transcripts(batch: RolloutBatch, tokenizer: PreTrainedTokenizerBase) -> list[Transcript]:
    plain = transcripts(
        tokenizer,
        batch.boundaries,
        batch.prompt_ids,
        batch.prompt_mask,
        batch.completion_ids,
        batch.completion_mask,
        batch.model_mask,
        [task.answers for task in batch.tasks],
    )
    return [
        replace(
            one,
            asked=task.prompt,
            row=task.row,
            environment=task.environment,
            turn_rewards=() if record is None else tuple(record.turn_rewards),
        )
        for one, task, record in zip(plain, batch.tasks, batch.records, strict=True)
    ]


def _before_each_turn(segments: list[Segment], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the observation right before each turn; nothing before a turn that the completion begins with."""
    before = [None, *segments]
    return [
        tokenizer.decode(earlier.ids) if earlier is not None else ""
        for earlier, segment in zip(before, segments, strict=False)
        if segment.turn >= 0
    ]
