"""Compute tokens once that rollouts of a micro-batch share: a prompt's, and the turns of a tree.

Rows that begin alike become one packed row, a prefix tree laid flat: each token stands in it once, at the position that
it has in its rollouts, and sees its ancestors alone (tree attention). Log-probabilities, and so gradients, are those of
rows of their own, up to rounding.

Two rollouts of the prompt `q`, the second of which leaves the first after its token `b`:

    rows    q a b c d    packed  q a b c d e f
            q a b e f    place   0 1 2 3 4 3 4
                         sees    c: q a b c     e: q a b e
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.signals.answer_likelihood.model_support import needs_additive_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from transformers import Cache, PreTrainedConfig

MOST_COLUMNS = 16_384
"""Columns of a packed row, whose mask has their square."""

WORTH_IT = 0.8
"""Share of the rows' own cost at which packing them pays."""


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """Hold the rows of a micro-batch as packed rows, T trees of C columns at most.

    Attributes:
        input_ids: the packed tokens; 0 on padding.
        position_ids: the column that each has in its row.
        sees: [T, C, C]; the tokens that each sees, itself included. Padding sees itself.
        tree: of each row.
        path: where each column of a row stands in its packed row; 0 on padding.
    """

    input_ids: Int[Tensor, "T C"]
    position_ids: Int[Tensor, "T C"]
    sees: Bool[Tensor, "T C C"]
    tree: Int[Tensor, " B"]
    path: Int[Tensor, "B S"]

    @classmethod
    def find(cls, ids: Int[Tensor, "B S"], mask: Int[Tensor, "B S"], config: PreTrainedConfig) -> SharedPrefix | None:
        """Pack rows, padded on both sides, of a model of `config`, if it takes a mask of ours in all layers; None where
        that would not pay."""
        if len(ids) < 2:
            return None
        alike = _shared_tokens(ids.cpu(), mask.cpu().bool())
        first, n_tokens = mask.int().argmax(1).tolist(), mask.sum(1).tolist()
        # A prompt that is short beside what follows it is not worth the attention of one rollout to another.
        layouts = [_trees(alike, first, n_tokens, least) for least in alike.amax(1).unique().tolist() if least > 0]
        costs = [_cost(len(trees), max(tree.n_columns for tree in trees), config) for trees in layouts]
        if not costs or min(costs) > WORTH_IT * _cost(len(ids), ids.size(1), config):
            return None
        trees = layouts[costs.index(min(costs))]
        n_columns = max(tree.n_columns for tree in trees)
        return cls._of(trees, ids, n_columns) if n_columns <= MOST_COLUMNS else None

    @classmethod
    def _of(cls, trees: list[_Tree], ids: Int[Tensor, "B S"], n_columns: int) -> SharedPrefix:
        shape = len(trees), n_columns
        input_ids, position_ids = torch.zeros(shape, dtype=ids.dtype), torch.zeros(shape, dtype=torch.long)
        sees = torch.eye(n_columns, dtype=torch.bool).repeat(len(trees), 1, 1)
        tree_of, path = torch.zeros(len(ids), dtype=torch.long), torch.zeros(ids.shape, dtype=torch.long)
        for number, tree in enumerate(trees):
            for row, (first, shared, places) in tree.rows.items():
                columns = torch.arange(first, first + len(places))
                tree_of[row], path[row, columns] = number, places
                own = places[shared:]
                input_ids[number, own] = ids[row, columns[shared:]].cpu()
                position_ids[number, own] = columns[shared:]
                sees[number, own[:, None], places[:shared]] = True
                sees[number, own[:, None], own] = torch.ones(len(own), len(own), dtype=torch.bool).tril()
        return cls(*(tensor.to(ids.device) for tensor in (input_ids, position_ids, sees, tree_of, path)))

    def attention_mask(self, config: PreTrainedConfig, dtype: torch.dtype) -> Tensor:
        """Return the 4D mask of the packed forward, boolean or, for a model that adds its mask, 0 and the least
        number."""
        if not needs_additive_mask(config):
            return self.sees[:, None]
        return torch.zeros(self.sees.shape, dtype=dtype, device=self.sees.device).masked_fill(
            ~self.sees, torch.finfo(dtype).min
        )[:, None]

    def locate(
        self, rows: Int[Tensor, " N"], columns: Int[Tensor, " N"]
    ) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
        """Return packed row and column of tokens given by row and column."""
        return self.tree[rows], self.path[rows, columns]

    @torch.no_grad()
    def unpack(self, cache: Cache) -> None:
        """Lay the keys and values that the packed forward left out as the rows' own, off its graph."""
        for layer in cache.layers:
            layer.keys, layer.values = (self._rows_of(states.detach()) for states in (layer.keys, layer.values))

    def _rows_of(self, states: Float[Tensor, "T H C D"]) -> Float[Tensor, "B H S D"]:
        return states.transpose(1, 2)[self.tree[:, None], self.path].transpose(1, 2)


class _Tree:
    """Grow a packed row: each row's first column, tokens shared with a row before it, and the places of its tokens."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, int, Tensor]] = {}
        self.n_columns = 0

    def add(self, row: int, first: int, n_tokens: int, shared: int, places: Tensor | None) -> None:
        own = torch.arange(self.n_columns, self.n_columns + n_tokens - shared)
        self.rows[row] = first, shared, own if places is None else torch.cat([places[:shared], own])
        self.n_columns += len(own)


def _shared_tokens(ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Int[Tensor, "B B"]:
    """Count the tokens with which row i and each row before it both begin; 0 behind another padding, where positions
    are others."""
    first = mask.int().argmax(1)
    alike = torch.zeros(len(ids), len(ids), dtype=torch.long)
    for row in range(1, len(ids)):
        start = int(first[row])
        same = ((ids[:row] == ids[row]) & mask[:row] & mask[row])[:, start:]
        alike[row, :row] = same.int().cumprod(1).sum(1) * (first[:row] == start)
    return alike


def _trees(alike: Int[Tensor, "B B"], first: list[int], n_tokens: list[int], least: int) -> list[_Tree]:
    """Put each row behind the earlier one with which it shares the most tokens, or at the root of a tree of its own
    where these are fewer than `least`."""
    trees: list[_Tree] = []
    tree_of: list[_Tree] = []
    for row, (shared, nearest) in enumerate(zip(*(found.tolist() for found in alike.max(1)), strict=True)):
        if shared < least:
            trees.append(tree := _Tree())
            tree.add(row, first[row], n_tokens[row], 0, None)
        else:
            tree = tree_of[nearest]
            tree.add(row, first[row], n_tokens[row], shared, tree.rows[nearest][2])
        tree_of.append(tree)
    return trees


def _cost(n_rows: int, n_columns: int, config: Any) -> float:
    """Count a layer's multiplications: those of the weights for each token, and of its attention to all columns."""
    width = 6 * config.get_text_config(decoder=True).hidden_size
    return float(n_rows * n_columns * (width + n_columns))


def cost_of(ids: Int[Tensor, "B S"], mask: Int[Tensor, "B S"], config: Any) -> float:
    """Return a layer's multiplications for a micro-batch, packed where that pays."""
    packed = SharedPrefix.find(ids, mask, config)
    laid_out = ids if packed is None else packed.input_ids
    return _cost(len(laid_out), laid_out.size(1), config)
