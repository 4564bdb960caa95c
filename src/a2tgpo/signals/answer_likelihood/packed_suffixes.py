"""Pack the answer suffixes of a batch into the queries of one forward, with what each of them may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.model_support import Layer, masks_by_kind
from a2tgpo.signals.answer_likelihood.scaffold import SuffixBatch
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED, Trajectories

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer


@dataclass(frozen=True)
class PackedSuffixes:
    """Hold the suffixes of B rollouts after all their boundaries as Q queries a row, on the CPU.

    Each suffix starts with a second copy of its prefix's last token, so that the suffix's first token has a predictor
    in this forward; the suffix's last token only needs to be read. Suffixes of a batch differ in number and length:
    the real queries of each row stand at the front, and columns that no row needs are left out.

    Attributes:
        queries, targets: the tokens to feed, and the token each of them predicts; `IGNORED` where it is not read.
        is_query: False for fillers.
        suffix_of: number of the query's suffix in its row: boundary × aliases + alias.
        step: place of the query in its suffix; 0 is the copy of the prefix's last token.
        last_column: column of the prefix's last token.
        n_boundaries, n_aliases: K and A.
    """

    queries: Integer[Tensor, "B Q"]
    targets: Integer[Tensor, "B Q"]
    is_query: Bool[Tensor, "B Q"]
    suffix_of: Integer[Tensor, "B Q"]
    step: Integer[Tensor, "B Q"]
    last_column: Integer[Tensor, "B Q"]
    n_boundaries: int
    n_aliases: int

    @classmethod
    def pack(cls, trajectories: Trajectories, boundaries: Boundaries, suffixes: SuffixBatch) -> PackedSuffixes:
        """Pack `suffixes` behind the prefixes of `trajectories` that end at `boundaries`."""
        last_column = boundaries.columns - 1
        shape = (*boundaries.columns.shape, *suffixes.ids.shape[1:])
        last_token = trajectories.input_ids.gather(1, last_column)[:, :, None, None].expand(*shape[:3], 1)
        queries = torch.cat([last_token, suffixes.ids[:, None, :, :-1].expand(*shape[:3], -1)], dim=-1)
        is_query = (suffixes.is_token[:, None] & boundaries.exists[:, :, None, None]).flatten(1)

        packed = int(is_query.sum(1).max())
        order = is_query.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :packed]
        is_query = is_query.gather(1, order)
        suffix_of = order // shape[3]
        targets = suffixes.labels[:, None].expand(shape).flatten(1).gather(1, order)
        return cls(
            queries.flatten(1).gather(1, order),
            targets.masked_fill(~is_query, IGNORED),
            is_query,
            suffix_of,
            order % shape[3],
            last_column.gather(1, suffix_of // shape[2]),
            shape[1],
            shape[2],
        )

    def masks(
        self, attended: Bool[Tensor, "B S"], layers: Sequence[Layer], device: torch.device, *, additive: bool
    ) -> Tensor | dict[str, Tensor | None] | None:
        """Make the 4D mask of the forward, or one by the name of each kind of layer where their attention differs;
        none for a model without attention.

        `additive` gives 0 and −max in place of booleans.
        """
        seen = self._seen(attended, device)

        def mask(layer: Layer | None) -> Tensor:
            near = seen if layer is None or layer.window is None else seen & self._near(attended, layer, device)
            # The one spare column at the end only carries the last query's label.
            near = F.pad(near, (0, 1, 0, 1))
            near[:, -1, -1] = True
            if additive:
                near = torch.zeros(near.shape, device=device).masked_fill(~near, torch.finfo(torch.float32).min)
            return near[:, None]

        return masks_by_kind(layers, mask)

    def _seen(self, attended: Bool[Tensor, "B S"], device: torch.device) -> Bool[Tensor, "B Q S+Q"]:
        """Mark the keys of each query: the prefix before its last token, its own suffix up to and with itself."""
        attended, last_column, suffix_of = (upload(x, device) for x in (attended, self.last_column, self.suffix_of))
        columns = torch.arange(attended.shape[1], device=device)
        prefix = attended[:, None] & (columns < last_column[:, :, None])
        n_queries = suffix_of.shape[1]
        causal = torch.ones(n_queries, n_queries, dtype=torch.bool, device=device).tril()
        own_suffix = (suffix_of[:, :, None] == suffix_of[:, None]) & causal
        return torch.cat([prefix, own_suffix], dim=-1)

    def _near(self, attended: Bool[Tensor, "B S"], layer: Layer, device: torch.device) -> Bool[Tensor, "B Q S+Q"]:
        """Mark the keys within the window of each query; tokens are counted from the row's first."""
        assert layer.window is not None
        first = upload(attended.int().argmax(1, keepdim=True), device)
        query = upload(self.last_column + self.step, device) - first
        key = torch.cat([torch.arange(attended.shape[1], device=device) - first, query], dim=1)
        if layer.chunked:
            return key[:, None] // layer.window == query[:, :, None] // layer.window
        return key[:, None] > query[:, :, None] - layer.window

    def totals(self, logps: Float[Tensor, "B Q"]) -> Float[Tensor, "B K A"]:
        """Sum the log-probabilities of each suffix."""
        sums = logps.new_zeros(len(logps), self.n_boundaries * self.n_aliases)
        sums = sums.scatter_add(1, upload(self.suffix_of, logps.device), logps)
        return sums.view(-1, self.n_boundaries, self.n_aliases)
