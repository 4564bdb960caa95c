"""Information gain: how much each observation raised the likelihood of the gold answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_shapes, check_values, full_precision

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def information_gain(likelihood: Float[Tensor, "B T+1"], is_process: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """ig_t = v_t − v_{t−1} on process turns, 0 elsewhere, without gradient (A²TGPO, arXiv 2605.06200).

    Args:
        likelihood: v, the likelihood of the gold answer at each boundary. Column 0 is given the query alone,
            column t+1 given everything through the observation of turn t. Probabilities give a gain in
            [−1, 1]; mean log-probabilities give the unbounded gain of the authors' release.
        is_process: turns that an observation follows. Only the boundaries on either side of one are read.

    Raises:
        ValueError: mismatched shapes, or a likelihood that a gain needs and that is not finite.
    """
    check_shapes(is_process=(is_process, "bool B T"), likelihood=(likelihood, "float B T+1"))
    value = full_precision(likelihood).detach()
    needed = torch.nn.functional.pad(is_process, (1, 0)) | torch.nn.functional.pad(is_process, (0, 1))
    check_values(
        "likelihood",
        value,
        value.isfinite() | ~needed,
        "a process turn needs a finite likelihood on both of its boundaries; score them or unset is_process",
    )
    return torch.where(is_process, value[:, 1:] - value[:, :-1], 0)
