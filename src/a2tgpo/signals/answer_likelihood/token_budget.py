"""Choose which rows share a forward: rows of similar length, as many as a budget of tokens allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import distributed


class Extent(NamedTuple):
    """Say what one row needs: columns first to end (exclusive), and a later forward over `extra` tokens more."""

    first: int
    end: int
    extra: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """Name rows of the batch that share a forward, and the columns it runs over."""

    rows: tuple[int, ...]
    columns: slice


def cut_by_tokens(extents: Sequence[Extent], tokens: int | None, device: torch.device) -> list[MicroBatch]:
    """Cut rows into micro-batches whose forwards have at most `tokens` tokens each, padding included; longest first.

    A row that exceeds the budget alone runs alone; None puts all rows into one micro-batch. Under
    torch.distributed, call it in every process: a process with fewer micro-batches than the busiest repeats its last,
    because a sharded model needs equally many forwards everywhere.

    Raises `ValueError` for a budget below 1.
    """
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens_per_batch is {tokens}; pass at least 1, or None for one forward over all rows.")
    order = sorted(range(len(extents)), key=lambda row: extents[row].first - extents[row].end)
    batches: list[list[int]] = []
    for row in order:
        if batches and (tokens is None or _padded_tokens([extents[i] for i in (*batches[-1], row)]) <= tokens):
            batches[-1].append(row)
        else:
            batches.append([row])
    found = [MicroBatch(tuple(rows), _columns(extents[row] for row in rows)) for rows in batches]
    return found + found[-1:] * (_most_of_all_processes(len(found), device) - len(found))


def _padded_tokens(extents: Sequence[Extent]) -> int:
    columns = _columns(extents)
    return len(extents) * max(columns.stop - columns.start, *(extent.extra for extent in extents))


def _columns(extents: Iterable[Extent]) -> slice:
    first, end, _ = zip(*extents, strict=True)
    return slice(min(first), max(end))


def _most_of_all_processes(count: int, device: torch.device) -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return count
    most = torch.tensor(count, device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)
