"""Choose which rollouts of an update share a forward, and the columns it runs over: engines pad all to the longest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from a2tgpo.pipeline.batch import concat_prompt_completion
from a2tgpo.pipeline.collective import Collective
from a2tgpo.pipeline.shared_prefix import cost_of
from a2tgpo.pipeline.turn_loss import TOKEN_COLUMNS, LossInputs, tokens_per_process
from a2tgpo.rollout.rows import cheapest_readings
from a2tgpo.signals.answer_likelihood.trajectories import ALIGNMENT

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Columns = dict[str, Any]
"""A micro-batch as engines pass it about: tensors and lists by name, rollouts first."""

_TRIMMED = (
    "completion_ids",
    "completion_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
    *TOKEN_COLUMNS,
)
"""Columns that the loss reads token by token, `[B, L]` each; an importance may be `[B, 1]`."""


def sort_by_length(micro_batches: Sequence[Columns], per_update: int) -> list[Columns]:
    """Move rollouts between the micro-batches of an update, so that those of similar length share a forward.

    The gradient of the update is the same sum over the same rollouts.

    Args:
        per_update: consecutive micro-batches whose rollouts are exchanged; divides their number.
    """
    sorted_batches: list[Columns] = []
    for start in range(0, len(micro_batches), per_update):
        update = micro_batches[start : start + per_update]
        order = torch.cat([_n_columns(one) for one in update]).argsort(descending=True, stable=True)
        sorted_batches += _redistribute(update, order)
    return sorted_batches


def sort_by_prefix(micro_batches: Sequence[Columns], per_update: int) -> list[Columns]:
    """Move rollouts as `sort_by_length` does, so that those that begin alike share a forward."""
    sorted_batches: list[Columns] = []
    for start in range(0, len(micro_batches), per_update):
        update = micro_batches[start : start + per_update]
        rows = [row for one in update for row in torch.cat([one["prompt_ids"], one["completion_ids"]], 1).tolist()]
        sorted_batches += _redistribute(update, torch.tensor(sorted(range(len(rows)), key=rows.__getitem__)))
    return sorted_batches


def cheapest_order(
    micro_batches: Sequence[Columns], per_update: int, model_config: Any, *, packs: bool = True
) -> list[Columns]:
    """Sort the rollouts of each update by length, or by prefix where a model of `model_config` computes those once and
    that costs less.

    Args:
        packs: whether the update packs rows that begin alike at all, see `likelihood.why_not_packed`.
    """
    by_length = sort_by_length(micro_batches, per_update)
    if per_update == 1 or not packs:
        return by_length
    by_prefix = sort_by_prefix(micro_batches, per_update)
    costs = [sum(_cost(one, model_config) for one in order) for order in (by_length, by_prefix)]
    return by_prefix if costs[1] < costs[0] else by_length


def cheapest_forwards(micro_batch: Columns, model_config: Any, *, price: float, packs: bool) -> list[list[int]]:
    """Return the rows of each forward over a micro-batch: all of them in one, or those of like length together.

    Args:
        price: of a forward, in columns.
        packs: whether rows that begin alike are packed, which may cost less than forwards of like length.
    """
    n_prompt, rows = micro_batch["prompt_ids"].size(1), range(len(micro_batch["completion_mask"]))
    columns = [n_prompt + -(-n // ALIGNMENT) * ALIGNMENT for n in _n_columns(micro_batch).tolist()]
    forwards = forwards_by_length(columns, price)
    if packs and len(forwards) > 1:
        apart = sum(_cost(take_rows(micro_batch, one), model_config) for one in forwards)
        if _cost(micro_batch, model_config) <= apart:
            return [[*rows]]
    return forwards


def forwards_by_length(columns: Sequence[int], price: float) -> list[list[int]]:
    """Cut the rows of a forward, of so many `columns` each, into forwards of like length where that costs less, see
    `cheapest_readings`."""
    return [sorted(rows) for rows in cheapest_readings(columns, len(columns) * max(columns), price)]


def take_rows(micro_batch: Columns, rows: Sequence[int]) -> Columns:
    """Return these rollouts of a micro-batch."""
    index = torch.tensor(rows)
    return {name: _take(value, index) for name, value in micro_batch.items()}


def join_rows(parts: Sequence[Float[Tensor, "b L"]], forwards: Sequence[Sequence[int]]) -> Float[Tensor, "B L"]:
    """Join what each of `forwards` found of its rows, in the order of the rows; columns that one lacks are 0."""
    if len(parts) == 1:
        return parts[0]
    back = torch.tensor([row for rows in forwards for row in rows]).argsort().to(parts[0].device)
    n_columns = max(part.size(1) for part in parts)
    return torch.cat([pad(part, (0, n_columns - part.size(1))) for part in parts])[back]


def _cost(micro_batch: Columns, model_config: Any) -> float:
    cut = trim_padding(micro_batch)
    ids = concat_prompt_completion(cut["prompt_ids"], cut["completion_ids"])
    return cost_of(ids, concat_prompt_completion(cut["prompt_mask"], cut["completion_mask"]), model_config)


def in_order(micro_batches: Sequence[Columns], column: str) -> list[Columns]:
    """Put the rollouts of all micro-batches in the order of the numbers in `column`, which an engine has shuffled."""
    return _redistribute(micro_batches, torch.cat([one[column] for one in micro_batches]).argsort())


def count_tokens_by_update(micro_batches: Sequence[Columns], per_update: int, collective: Collective) -> list[Columns]:
    """Return the micro-batches with the tokens of the update that each belongs to, which a token mean divides by.

    Args:
        per_update: consecutive micro-batches that feed one update.
        collective: the processes that share each update.
    """
    counted: list[Columns] = []
    for start in range(0, len(micro_batches), per_update):
        update = micro_batches[start : start + per_update]
        inputs = [LossInputs.from_columns(one) for one in update]
        n_tokens = tokens_per_process(inputs, collective)
        counted += [one | of.over_tokens(n_tokens).columns() for one, of in zip(update, inputs, strict=True)]
    return counted


def trim_padding(micro_batch: Columns, multiple_of: int | None = None) -> Columns:
    """Return `micro_batch` without the last columns, which only pad.

    They are cut in multiples of `ALIGNMENT`, as scoring does, and of `multiple_of`, which an engine pads to. Left
    padding stays, because positions count it.
    """
    step = math.lcm(ALIGNMENT, multiple_of or 1)
    length = micro_batch["completion_mask"].size(1)
    longest = max(int(_n_columns(micro_batch).amax()), 1)
    kept = length - (length - longest) // step * step
    present = [name for name in _TRIMMED if micro_batch.get(name) is not None]
    # An advantage of the user's own may be one number per rollout.
    return micro_batch | {name: micro_batch[name][:, :kept] for name in present if micro_batch[name].dim() > 1}


def _redistribute(micro_batches: Sequence[Columns], order: Int[Tensor, " B"]) -> list[Columns]:
    """Take the joined rollouts in `order` into micro-batches of the sizes they had."""
    joined = {name: _join([one[name] for one in micro_batches]) for name in micro_batches[0]}
    parts = order.split([len(one["completion_mask"]) for one in micro_batches])
    return [{name: _take(value, part) for name, value in joined.items()} for part in parts]


def _n_columns(micro_batch: Columns) -> Int[Tensor, " B"]:
    """Count the columns of each completion up to its last token."""
    return micro_batch["completion_mask"].sum(dim=1)


def _join(values: list[Any]) -> Any:
    """Join the rows of all micro-batches; what has no rows is the same in each."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values) if first.ndim else first
    return first if first is None else [row for value in values for row in value]


def _take(value: Any, rows: Int[Tensor, " B"]) -> Any:
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim else value
    return value if value is None else [value[row] for row in rows.tolist()]
