"""Compute the loss of one micro-batch of an update that is spread over micro-batches and processes.

The engine averages gradients over processes and adds up those of micro-batches, however unevenly it cut the update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.integrations.verl.queue_rows import UPDATE_COLUMNS
from a2tgpo.methods import Method
from a2tgpo.pipeline import LossInputs, TurnLoss, turn_loss

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


@dataclass(frozen=True)
class Update:
    """Say what a micro-batch is a part of.

    Attributes:
        n_rows: rows of the update over all processes, padding rows included.
        n_tokens: tokens that count in it, over all processes.
        n_processes: processes whose gradients are averaged.
        real_share: share of the batch's rows that are rollouts and no padding, in (0, 1].
    """

    n_rows: int
    n_tokens: float
    n_processes: int
    real_share: float = 1.0

    def weight_of(self, n_rows: int) -> float:
        """Return what the mean over a micro-batch of `n_rows` is multiplied by, so that the sum over micro-batches,
        averaged over processes, is the mean over the update's rollouts."""
        return n_rows * self.n_processes / (self.n_rows * self.real_share)


def micro_batch_loss(
    logps: Float[Tensor, "B L"],
    columns: Mapping[str, Sequence[Shaped[Tensor, " l"]]],
    method: Method,
    update: Update,
    *,
    kl_beta: float = 0.0,
) -> TurnLoss:
    """Return the micro-batch's part of the update's loss; its diagnostics are means over the micro-batch.

    Args:
        logps: under the policy, with gradient, padded on the right; anything off the policy's tokens.
        columns: one tensor per row: `UPDATE_COLUMNS`, `old_log_probs` and, where they apply, `ref_log_prob` and
            `token_weight`.
        kl_beta: strength of the penalty for leaving the reference policy.
    """
    inputs = _read_inputs(columns, update, logps.device)
    found = turn_loss(
        logps,
        _pad(columns["old_log_probs"]),
        inputs,
        method,
        token_weight=_pad(columns["token_weight"]) if "token_weight" in columns else None,
        ref_logps=_pad(columns["ref_log_prob"]) if kl_beta else None,
        kl_beta=kl_beta,
    )
    # A mean over an update's tokens adds up over its micro-batches by itself.
    weight = 1.0 if method.aggregate == "token" else update.weight_of(len(logps))
    return found._replace(loss=found.loss * weight)


def without_empty_rows(
    logps: Float[Tensor, "B L"], columns: Mapping[str, Sequence[Tensor]]
) -> tuple[Float[Tensor, "b l"], Mapping[str, Sequence[Tensor]]]:
    """Leave out rows that have no part in the loss, such as padding, so that no diagnostic counts them; all stay where
    there are no others, for the sake of the gradient."""
    kept = [row for row, ids in enumerate(columns["turn_ids"]) if (ids >= 0).any()]
    if not kept or len(kept) == len(logps):
        return logps, columns
    width = max(len(columns["turn_ids"][row]) for row in kept)
    return logps[kept, :width], {name: [rows[row] for row in kept] for name, rows in columns.items()}


def _read_inputs(columns: Mapping[str, Sequence[Tensor]], update: Update, device: torch.device) -> LossInputs:
    padded = {name: _pad(columns[name], padding) for name, padding in UPDATE_COLUMNS.items()}
    # A micro-batch without a token of the policy has one column for turns all the same.
    n_turns = max(int(padded["turn_ids"].max()) + 1, 1)
    n_tokens = torch.tensor(update.n_tokens / update.n_processes, dtype=torch.float32, device=device)
    return LossInputs.from_columns(padded | {"turn_columns": torch.tensor(n_turns), "turn_update_tokens": n_tokens})


def _pad(rows: Sequence[Tensor], padding: float = 0.0) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=padding)
