"""Give every turn of a batch its credit.

A prompt's rollouts may lie in several processes, so whatever a credit rule reads is joined before any group statistic
is taken; each process then keeps its own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.core import SharedCredit, TurnBatch, information_gain, overlong_penalty, share_turns
from a2tgpo.core.turn_batch import check_credit
from a2tgpo.methods import Method
from a2tgpo.pipeline.anchor_states import number_states
from a2tgpo.pipeline.batch import RolloutBatch
from a2tgpo.pipeline.collective import Collective
from a2tgpo.pipeline.prefix_tree import renumber_nodes
from a2tgpo.pipeline.turn_signals import TurnSignals

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class BatchCredit:
    """Hold what each turn of B rollouts, T turns at most, was given and from what.

    Two rollouts of one prompt under A²TGPO; the first searched, gained .5 and was right, the second answered at once:

        outcome          [1, 0]
        gain             [[.5, 0], [0, 0]]
        normalized_gain  [[0, 0], [0, 0]]           a turn group of one has no spread
        advantage        [[1, 1], [−1, 0]]          R̂ = ±1 and no process credit; 0 on padding
        clip_scale       [[1, 1], [1, 1]]

    Attributes:
        likelihood, gain: None where the method reads none.
        valid: False for a rollout that is excluded from the loss and from every statistic: its tool failed, no reward
            applied to it, or its turns' signal had no numbers. One that the engine masks, as truncated, stays in its
            prompt's baseline.
        advantage: of the rollout itself, also on turns that it shares.
        shared: the credit of turns that several rollouts share, in the row that carries them in the loss; None where
            rollouts share no turn.
    """

    likelihood: Float[Tensor, "B T+1"] | None
    gain: Float[Tensor, "B T"] | None
    is_process: Bool[Tensor, "B T"]
    n_turns: Int[Tensor, " B"]
    outcome: Float[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    normalized_gain: Float[Tensor, "B T"]
    advantage: Float[Tensor, "B T"]
    clip_scale: Float[Tensor, "B T"]
    shared: SharedCredit | None = None

    def rows(self, start: int, stop: int) -> BatchCredit:
        """Return rollouts `start` to `stop`, exclusive."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if (shared := values.pop("shared")) is not None:
            shared = SharedCredit(*(value[start:stop] for value in shared))
        cut = {name: value[start:stop] for name, value in values.items() if value is not None}
        return replace(self, **cut, shared=shared)

    @classmethod
    def join(cls, parts: Sequence[BatchCredit]) -> BatchCredit:
        """Join parts of a batch whose rollouts share no turns; all have the batch's T."""
        first = parts[0]
        values: dict[str, Any] = {
            f.name: None if getattr(first, f.name) is None else torch.cat([getattr(part, f.name) for part in parts])
            for f in fields(first)
        }
        return cls(**values)

    def local(self, collective: Collective) -> BatchCredit:
        """Return the rollouts of this process."""
        n_rows = len(self.outcome) // collective.size
        return self.rows(collective.rank * n_rows, (collective.rank + 1) * n_rows)


def assign_credit(
    batch: RolloutBatch,
    signals: TurnSignals,
    rewards: Float[Tensor, " B"],
    method: Method,
    collective: Collective,
    *,
    normalized_outcome: Float[Tensor, " B"] | None = None,
) -> BatchCredit:
    """Give every turn of all processes its credit by `method`.

    Args:
        rewards: the outcome of each rollout of this process; NaN where no reward applied.
        normalized_outcome: R̂ of each, where an engine compares outcomes in a way of its own.

    Returns:
        The credit of the joined batch; `local` of it has this process's rows.

    Raises:
        ValueError: a rule of a user's gave a turn no finite number, or tensors of another shape.
    """
    boundaries = batch.boundaries
    outcome = collective.gather(rewards)
    is_process = collective.gather(boundaries.is_process.long()).bool()
    excluded = batch.failed | _unscored(signals, batch.failed)
    valid = ~collective.gather(excluded.long()).bool() & ~outcome.isnan()
    likelihood, gain, entropy, tree = (
        None if rows is None else collective.gather(rows)
        for rows in (signals.likelihood, signals.value, signals.entropy, signals.tree)
    )
    if likelihood is not None:
        gain = information_gain(likelihood, is_process)
    turns = TurnBatch(
        gain=torch.zeros_like(is_process, dtype=torch.float32) if gain is None else gain,
        is_process=is_process,
        outcome=outcome,
        group=torch.arange(len(outcome), device=outcome.device) // batch.group_size,
        n_turns=collective.gather(boundaries.n_turns),
        valid=valid,
        state=_states(batch, signals, collective, method.state_similarity),
        tree=tree,
        entropy=entropy,
        normalized_outcome=None if normalized_outcome is None else collective.gather(normalized_outcome),
    )
    credit, shared = method.credit(turns), None
    check_credit(credit, turns)
    if signals.node is not None:
        node = renumber_nodes(collective.gather(signals.node, padding=-1))
        n_tokens = collective.gather(batch.model_mask.sum(dim=1))
        by_rollout = method.aggregate == "rollout"
        shared = share_turns(credit, node, turns.group, valid, n_tokens=n_tokens if by_rollout else None)
    return BatchCredit(
        likelihood=likelihood,
        gain=gain,
        is_process=is_process,
        n_turns=turns.n_turns,
        outcome=outcome,
        valid=valid,
        shared=shared,
        **credit._asdict(),
    )


def add_overlong_penalty(
    rewards: Float[Tensor, " B"], batch: RolloutBatch, method: Method, max_completion_length: int
) -> Float[Tensor, " B"]:
    """Add the method's penalty for length, if it has one, to the rewards (DAPO, arXiv 2503.14476)."""
    if method.overlong is None:
        return rewards
    buffer = max(1, int(method.overlong * max_completion_length))
    lengths = batch.completion_mask.sum(dim=1)
    return rewards + overlong_penalty(lengths, max_length=max_completion_length, buffer=buffer)


def _unscored(signals: TurnSignals, like: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
    if signals.unscored is None:
        return torch.zeros_like(like)
    return torch.tensor([reason is not None for reason in signals.unscored], device=like.device)


def _states(
    batch: RolloutBatch, signals: TurnSignals, collective: Collective, similarity: float
) -> Int[Tensor, "global_B T"] | None:
    if signals.observations is None:
        return None
    everywhere = collective.gather_objects(signals.observations)
    n_columns = max(1, *map(len, everywhere))
    return number_states(everywhere, batch.group_size, n_columns, similarity).to(batch.turn_ids.device)
