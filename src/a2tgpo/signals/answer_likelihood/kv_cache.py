"""Score answers nearly for free: their suffixes read the KV cache of the trajectory's own pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.forward import LabelLogps
from a2tgpo.signals.answer_likelihood.scaffold import SuffixBatch
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED, Trajectories

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer
    from transformers import Cache, DynamicCache


@torch.no_grad()
def trajectory_logps(
    forward: LabelLogps, trajectories: Trajectories, device: torch.device, cache: DynamicCache | None = None
) -> Float[Tensor, "B S"]:
    """Read log π of each token the policy wrote, 0 elsewhere; fills `cache`, when given, on the way.

    Raises `ValueError` when the model ran but left the cache unfilled.
    """
    model_kwargs: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
    logps = forward(
        upload(trajectories.input_ids, device),
        trajectories.labels,
        attention_mask=upload(trajectories.attention_mask.long(), device),
        position_ids=upload(trajectories.position_ids, device),
        **model_kwargs,
    )
    n_columns = trajectories.input_ids.shape[1]
    if cache is not None and any(layer.get_seq_length() != n_columns for layer in cache.layers):
        raise ValueError(
            f"the model did not store the keys and values of its {n_columns} columns in past_key_values; "
            "switch gradient checkpointing off while scoring, or score with method='rows'."
        )
    return logps


@torch.no_grad()
def cached_answer_logps(
    forward: LabelLogps,
    trajectories: Trajectories,
    boundaries: Boundaries,
    suffixes: SuffixBatch,
    device: torch.device,
    cache: Cache,
    *,
    additive_mask: bool = False,
) -> Float[Tensor, "B K A"]:
    """Read the mean log-probability of each alias's answer tokens after each boundary's prefix, K = T + 1.

    Equals `row_answer_logps` in one forward over all suffixes of the batch. Suffix k sees the cached keys before
    boundary k and itself, and its positions go on from there. The suffixes' own keys are appended to `cache`,
    which is of no use afterwards. `additive_mask` gives the mask as 0 and −max instead of booleans, which
    eager attention needs. A missing alias gives −inf; columns of missing boundaries have no meaning.
    """
    last_column = boundaries.columns - 1
    queries, targets = _queries(trajectories, last_column, boundaries, suffixes)
    is_query = (suffixes.is_token[:, None] & boundaries.exists[:, :, None, None]).flatten(1)
    batch, n_boundaries, n_aliases, length = queries.shape

    # Suffixes of a batch differ in number and length: move the real queries of each row to the front and drop
    # the columns no row needs. The one spare column at the end only carries the last query's label.
    packed = int(is_query.sum(1).max())
    order = is_query.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :packed]
    is_query = is_query.gather(1, order)
    suffix_of = order // length
    queries, targets = (x.flatten(1).gather(1, order) for x in (queries, targets))
    last_column = last_column.gather(1, suffix_of // n_aliases)
    position_ids = trajectories.position_ids.gather(1, last_column) + order % length

    suffix_of = upload(suffix_of, device)
    mask = _attention(upload(trajectories.attention_mask, device), upload(last_column, device), suffix_of)
    mask = F.pad(mask, (0, 1, 0, 1))
    mask[:, -1, -1] = True
    if additive_mask:
        mask = torch.zeros(mask.shape, device=device).masked_fill(~mask, torch.finfo(torch.float32).min)
    logps = forward(
        upload(F.pad(queries, (0, 1)), device),
        F.pad(targets.masked_fill(~is_query, IGNORED), (1, 0), value=IGNORED),
        attention_mask=mask[:, None],
        position_ids=upload(F.pad(position_ids, (0, 1)), device),
        past_key_values=cache,
    )[:, 1:]
    totals = logps.new_zeros(batch, n_boundaries * n_aliases).scatter_add(1, suffix_of, logps)
    return suffixes.mean(totals.view(batch, n_boundaries, n_aliases))


def _queries(
    trajectories: Trajectories, last_column: Tensor, boundaries: Boundaries, suffixes: SuffixBatch
) -> tuple[Integer[Tensor, "B K A M"], Integer[Tensor, "B K A M"]]:
    """Give the tokens to feed and, for each, the next token to read.

    Each suffix starts with a second copy of its prefix's last token, so that the suffix's first token has a
    predictor in this forward; the suffix's last token only needs to be read.
    """
    shape = (*boundaries.columns.shape, *suffixes.ids.shape[1:])
    last_token = trajectories.input_ids.gather(1, last_column)[:, :, None, None].expand(*shape[:3], 1)
    queries = torch.cat([last_token, suffixes.ids[:, None, :, :-1].expand(*shape[:3], -1)], dim=-1)
    return queries, suffixes.labels[:, None].expand(shape)


def _attention(
    attended: Bool[Tensor, "B S"],
    last_column: Integer[Tensor, "B Q"],
    suffix_of: Integer[Tensor, "B Q"],
) -> Bool[Tensor, "B Q S+Q"]:
    """Mark the keys each query sees: the prefix before its last token, and its own suffix up to and with itself."""
    columns = torch.arange(attended.shape[1], device=attended.device)
    prefix = attended[:, None] & (columns < last_column[:, :, None])
    n_queries = suffix_of.shape[1]
    causal = torch.ones(n_queries, n_queries, dtype=torch.bool, device=attended.device).tril()
    own_suffix = (suffix_of[:, :, None] == suffix_of[:, None]) & causal
    return torch.cat([prefix, own_suffix], dim=-1)
