"""Statistics of groups: each element belongs to a cell, and is compared with the sampled elements of its cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def standard_scores(
    value: Float[Tensor, "*N"], sample: Bool[Tensor, "*N"], cell: Int[Tensor, "*N"], n_cells: int, eps: float
) -> Float[Tensor, "*N"]:
    """(value − mean) / (std + eps) of the sampled elements of each cell; 0 elsewhere."""
    deviation = centred(value, sample, cell, n_cells)
    variance = cell_mean(deviation.square(), sample, cell, n_cells)
    return deviation / (variance.sqrt() + eps)


def centred(
    value: Float[Tensor, "*N"], sample: Bool[Tensor, "*N"], cell: Int[Tensor, "*N"], n_cells: int
) -> Float[Tensor, "*N"]:
    """value − mean of the sampled elements of each cell; 0 elsewhere."""
    # Measured from the lowest element, equal values, and a value alone, are at exactly 0: the rounding of a
    # mean far from 0 would otherwise be divided by a std of nearly 0 and come out as credit.
    lowest = torch.full((n_cells,), torch.inf, dtype=value.dtype, device=value.device).scatter_reduce(
        0, cell.flatten(), torch.where(sample, value, torch.inf).flatten(), "amin"
    )
    height = torch.where(sample, value - lowest[cell], 0)
    return torch.where(sample, height - cell_mean(height, sample, cell, n_cells), 0)


def cell_mean(
    value: Float[Tensor, "*N"], sample: Bool[Tensor, "*N"], cell: Int[Tensor, "*N"], n_cells: int
) -> Float[Tensor, "*N"]:
    """On every element, the mean of its cell's sampled elements; 0 in a cell without any."""
    size = cell_sum(sample.to(value.dtype), cell, n_cells)
    return (cell_sum(torch.where(sample, value, 0), cell, n_cells) / size.clamp(min=1))[cell]


def cell_sum(value: Float[Tensor, "*N"], cell: Int[Tensor, "*N"], n_cells: int) -> Float[Tensor, " cells"]:
    """The sum of each cell's elements."""
    return value.new_zeros(n_cells).index_add(0, cell.flatten(), value.flatten())


def dense_cells(key: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """Number the distinct keys 0, 1, ...: the same number where the key is the same."""
    order = key.flatten().argsort()
    ascending = key.flatten()[order]
    rank = torch.nn.functional.pad(ascending[1:] != ascending[:-1], (1, 0)).cumsum(dim=0)
    return torch.empty_like(rank).scatter(0, order, rank).view_as(key)
