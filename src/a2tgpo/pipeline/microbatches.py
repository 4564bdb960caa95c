"""Which rollouts of an update share a forward, and the columns it runs over: TRL pads them all to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.signals.answer_likelihood.trajectories import ALIGNMENT

if TYPE_CHECKING:
    from jaxtyping import Int

_BY_TOKEN = (
    "completion_ids",
    "completion_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "importance_sampling_ratio",
    "turn_ids",
    "counted_ids",
)
"""What the loss reads token by token, `[B, L]` each; TRL's importance may be `[B, 1]`."""


def by_length(micro_batches: Sequence[dict[str, Any]], per_update: int) -> list[dict[str, Any]]:
    """Move rollouts between the micro-batches of an update, so that those of similar length share a forward.

    The gradient of the update is the same sum over the same rollouts. `per_update` is the number of consecutive
    micro-batches whose rollouts are exchanged; it divides their number.
    """
    sorted_batches: list[dict[str, Any]] = []
    for start in range(0, len(micro_batches), per_update):
        update = micro_batches[start : start + per_update]
        sizes = [len(one["completion_mask"]) for one in update]
        order = torch.cat([_n_columns(one) for one in update]).argsort(descending=True, stable=True)
        parts = order.split(sizes)
        joined = {name: _join([one[name] for one in update]) for name in update[0]}
        sorted_batches += [{name: _take(value, part) for name, value in joined.items()} for part in parts]
    return sorted_batches


def without_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs`, one micro-batch, without the last columns, which only pad.

    They are cut in multiples of `ALIGNMENT`, as scoring does. Left padding stays, because positions count it.
    """
    length = inputs["completion_mask"].size(1)
    longest = max(int(_n_columns(inputs).amax()), 1)
    kept = length - (length - longest) // ALIGNMENT * ALIGNMENT
    return inputs | {name: inputs[name][:, :kept] for name in _BY_TOKEN if inputs.get(name) is not None}


def _n_columns(inputs: dict[str, Any]) -> Int[Tensor, " B"]:
    """Columns of each completion up to its last token."""
    return inputs["completion_mask"].sum(dim=1)


def _join(values: list[Any]) -> Any:
    """Rows of all micro-batches; what has none is the same in each."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values) if first.ndim else first
    return first if first is None else [row for value in values for row in value]


def _take(value: Any, rows: Int[Tensor, " B"]) -> Any:
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim else value
    return value if value is None else [value[row] for row in rows.tolist()]
