"""Find where a rollout's turns end: the prefixes at which the answer's likelihood is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from a2tgpo.signals.answer_likelihood.device import upload

if TYPE_CHECKING:
    from jaxtyping import Bool, Integer


@dataclass(frozen=True)
class Boundaries:
    """Hold the turn boundaries of B rollouts, in columns of the padded prompt + completion row.

    Boundary 0 is the end of the prompt, boundary t + 1 the end of the observation after turn t. A prefix is
    every attended token in the first `columns[b, k]` columns; where a boundary does not exist, `columns`
    repeats the end of the prompt.

    Two rollouts after a prompt of 3 columns (p; m = policy, o = observation): `pppmoommoom`, two process turns and an
    answer, and `pppmm`, an answer alone:

        columns     [[3, 6, 10, 3], [3, 3, 3, 3]]
        exists      [[1, 1, 1, 0], [1, 0, 0, 0]]
        is_process  [[1, 1, 0], [0, 0, 0]]
        n_turns     [3, 1]
    """

    columns: Integer[Tensor, "B T+1"]
    exists: Bool[Tensor, "B T+1"]
    is_process: Bool[Tensor, "B T"]
    n_turns: Integer[Tensor, " B"]

    def take(self, rows: Sequence[int], first: int = 0) -> Boundaries:
        """Keep these rollouts alone, with `first` columns cut off on the left."""
        index = list(rows)
        return Boundaries(self.columns[index] - first, self.exists[index], self.is_process[index], self.n_turns[index])

    def to(self, device: torch.device) -> Boundaries:
        """Copy to `device`."""
        return Boundaries(*(upload(x, device) for x in (self.columns, self.exists, self.is_process, self.n_turns)))


def find_boundaries(
    prompt_mask: Bool[Tensor, "B P"],
    completion_ids: Integer[Tensor, "B L"],
    completion_mask: Bool[Tensor, "B L"],
    model_mask: Bool[Tensor, "B L"],
    *,
    end_ids: Sequence[int] = (),
    cut_last_result: bool = False,
) -> Boundaries:
    """Find the process turns of each rollout and the prefix that ends with each one's observation.

    A turn is a maximal run of policy tokens (`model_mask` and `completion_mask` both set; what `model_mask`
    says of padding is ignored). It is a process turn when an observation follows. Process turns always come
    first; the turn after them, if any, is the answer. T is the largest number of turns in the batch, or 1.

    Args:
        prompt_mask: left-padded, at least one attended token per row.
        completion_mask: right-padded.
        end_ids: tokens with which an environment closes a rollout, such as EOS. At the very end of a
            completion, and not written by the policy, they are no part of any observation.
        cut_last_result: end the last process turn's prefix before its observation. Reproduces a fault in
            the authors' released code, which the paper does not have; for comparison only.

    Raises `ValueError` when shapes disagree or the prompt's last column is padding.
    """
    _check(prompt_mask, completion_ids, completion_mask, model_mask)
    prompt_length = prompt_mask.shape[1]
    completion = completion_mask.bool()
    model = model_mask.bool() & completion
    column_end = torch.arange(1, completion.shape[1] + 1, device=completion.device)

    closing = torch.isin(completion_ids, completion_ids.new_tensor(list(end_ids))) & ~model
    content_end = (column_end * (completion & ~closing)).amax(1, keepdim=True)
    observation = completion & ~model & (column_end <= content_end)

    starts = model & ~F.pad(model, (1, 0))[:, :-1]
    turn_number = starts.cumsum(1)  # 1-based, carried over the observation; 0 before the first turn
    n_turns = starts.sum(1)
    n_columns = max(int(n_turns.max()), 1)

    def last_column(mask: Tensor) -> Tensor:
        ends = column_end.new_zeros(len(mask), n_columns + 1)
        return ends.scatter_reduce(1, turn_number, column_end * mask, "amax")[:, 1:]

    prefix_end = last_column(observation)
    is_process = prefix_end > 0
    if cut_last_result:
        is_last = is_process & ~F.pad(is_process, (0, 1))[:, 1:]
        prefix_end = torch.where(is_last, last_column(model), prefix_end)
    return Boundaries(
        columns=F.pad(prefix_end, (1, 0)) + prompt_length,
        exists=F.pad(is_process, (1, 0), value=True),
        is_process=is_process,
        n_turns=n_turns,
    )


def _check(prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor, model_mask: Tensor) -> None:
    shape = completion_ids.shape
    for name, mask in (("completion_mask", completion_mask), ("model_mask", model_mask)):
        if mask.shape != shape:
            raise ValueError(
                f"{name} has shape {list(mask.shape)} and completion_ids {list(shape)}; both must be [B, L]."
            )
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"completion_ids has shape {list(shape)}; pass [B, L] with at least one rollout and token.")
    if prompt_mask.ndim != 2 or len(prompt_mask) != shape[0]:
        raise ValueError(f"prompt_mask has shape {list(prompt_mask.shape)}; pass [B, P] with B = {shape[0]}.")
    if prompt_mask.shape[1] == 0 or not bool(prompt_mask[:, -1].all()):
        raise ValueError("prompt_mask ends in padding or is empty; pad prompts on the left and leave none empty.")
