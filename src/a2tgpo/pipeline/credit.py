"""Credit of a generation batch over all processes.

A prompt's rollouts may lie on several processes, so whatever a credit rule reads is gathered before any group
statistic is taken; each process then keeps its own rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.core import TurnBatch, count_once, information_gain
from a2tgpo.pipeline.prefix_tree import renumbered
from a2tgpo.signals.answer_likelihood.boundaries import Boundaries

if TYPE_CHECKING:
    from accelerate import Accelerator

    from a2tgpo.integrations.trl.config import A2TGPOConfig


@dataclass(frozen=True)
class LocalTurns:
    """What this process knows of the turns of its B rollouts, T turns at most.

    `has_tokens` is False where no token of the rollout may be trained on. The others are there where the method reads
    them: the answer likelihood at each boundary or the process signal of each turn; the tree of each rollout and the
    sampled turn (`node`) behind each of its turns; the entropy of each turn.
    """

    boundaries: Boundaries
    has_tokens: Bool[Tensor, " B"]
    likelihood: Float[Tensor, "B T+1"] | None = None
    signal: Float[Tensor, "B T"] | None = None
    tree: Int[Tensor, " B"] | None = None
    node: Int[Tensor, "B T"] | None = None
    entropy: Float[Tensor, "B T"] | None = None


@dataclass(frozen=True)
class BatchCredit:
    """Per-turn quantities of B rollouts, T turns at most.

    `valid` is False for a rollout that teaches nothing: the tool failed it, or TRL masked it as truncated. `likelihood`
    and `gain` are None where the method reads none; `owned` (see `core.count_once`) where rollouts share no turn.
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
    owned: Bool[Tensor, "B T"] | None = None

    def local(self, process_index: int) -> BatchCredit:
        """The rows of one process (each holds equally many, in order)."""
        rows = slice(process_index * self._rows_per_process, (process_index + 1) * self._rows_per_process)
        own: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name[0] != "_"):
            value = getattr(self, name)
            own[name] = None if value is None else value[rows]
        return BatchCredit(**own)

    _rows_per_process: int = 0


def assign_credit(
    accelerator: Accelerator,
    turns: LocalTurns,
    outcome: Float[Tensor, " global_B"],
    group_size: int,
    args: A2TGPOConfig,
    state: Int[Tensor, "global_B T"] | None = None,
) -> BatchCredit:
    """Gather the local `turns` and give every turn of the global batch its credit by `args.chosen`.

    Args:
        outcome: weighted rewards of the global batch; NaN where no reward function scored the rollout.
        group_size: rollouts per prompt, consecutive in the global batch.
        state: see `TurnBatch`.
    """

    def everywhere(rows: Tensor | None, padding: int = 0) -> Any:
        if rows is None:
            return None
        return accelerator.gather(
            accelerator.pad_across_processes(rows, dim=1, pad_index=padding) if rows.dim() > 1 else rows
        )

    is_process = everywhere(turns.boundaries.is_process.long()).bool()
    valid = everywhere(turns.has_tokens.long()).bool() & ~torch.isnan(outcome)
    likelihood, gain = everywhere(turns.likelihood), everywhere(turns.signal)
    if likelihood is not None:
        gain = information_gain(likelihood, is_process)
    batch = TurnBatch(
        gain=torch.zeros_like(is_process, dtype=torch.float32) if gain is None else gain,
        is_process=is_process,
        outcome=outcome,
        group=torch.arange(len(outcome), device=outcome.device) // group_size,
        n_turns=everywhere(turns.boundaries.n_turns),
        counted=_counted(is_process, gain, args),
        valid=valid,
        state=state,
        tree=everywhere(turns.tree),
        entropy=everywhere(turns.entropy),
    )
    credit, owned = args.chosen.credit(batch), None
    if turns.node is not None:
        node = renumbered(everywhere(turns.node, padding=-1))
        credit, owned = count_once(credit, node, batch.group, valid)
    return BatchCredit(
        likelihood=likelihood,
        gain=gain,
        is_process=is_process,
        n_turns=batch.n_turns,
        outcome=outcome,
        valid=valid,
        owned=owned,
        **credit._asdict(),
        _rows_per_process=len(turns.has_tokens),
    )


def _counted(is_process: Bool[Tensor, "B T"], gain: Float[Tensor, "B T"] | None, args: A2TGPOConfig) -> Tensor:
    """Process turns whose gain enters the credit: all but those the authors' code leaves out, where asked for."""
    counted = is_process.clone()
    if args.skip_first_gain:
        counted[:, 0] = False
    if args.drop_zero_gains and gain is not None:
        counted &= gain != 0
    return counted
