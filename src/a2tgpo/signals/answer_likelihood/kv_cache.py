"""Score answers nearly for free: their suffixes read the KV cache of the trajectory's own pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.forward import LabelLogps
from a2tgpo.signals.answer_likelihood.model_support import Layer
from a2tgpo.signals.answer_likelihood.packed_suffixes import PackedSuffixes
from a2tgpo.signals.answer_likelihood.scaffold import SuffixBatch
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED, Trajectories

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import Cache, DynamicCache


class CacheNotFilledError(ValueError):
    """Say that a model ran and left the cache it was given unfilled."""


@torch.no_grad()
def trajectory_logps(
    forward: LabelLogps, trajectories: Trajectories, device: torch.device, cache: DynamicCache | None = None
) -> Float[Tensor, "B S"]:
    """Read log π of each token the policy wrote, 0 elsewhere; fills `cache`, when given, on the way.

    Raises `CacheNotFilledError` when the model ran but left the cache unfilled.
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
    kept = [layer.keys for layer in (cache.layers if cache is not None else ()) if hasattr(layer, "get_seq_length")]
    if any(keys is None or keys.shape[-2] != n_columns for keys in kept):
        raise CacheNotFilledError(
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
    layers: Sequence[Layer] = (),
    additive_mask: bool = False,
    within: Callable[[PackedSuffixes], AbstractContextManager[Any]] = nullcontext,
) -> Float[Tensor, "B K A"]:
    """Read the mean log-probability of each alias's answer tokens after each boundary's prefix, K = T + 1.

    Equals `row_answer_logps` in one forward over all suffixes of the batch. A suffix sees the cached keys before its
    boundary and itself, and its positions go on from there. The suffixes' own keys are appended to `cache`, which is of
    no use afterwards. A missing alias gives −inf; columns of missing boundaries have no meaning.

    Args:
        layers: how far back each layer's attention reaches; all the way where none are given.
        additive_mask: give masks as 0 and −max instead of booleans, which eager attention needs.
        within: makes the context in which the forward over these suffixes runs.
    """
    packed = PackedSuffixes.pack(trajectories, boundaries, suffixes)
    masks = packed.masks(trajectories.attention_mask, layers, device, additive=additive_mask)
    position_ids = trajectories.position_ids.gather(1, packed.last_column) + packed.step
    with within(packed):
        logps = forward(
            upload(F.pad(packed.queries, (0, 1)), device),
            F.pad(packed.targets, (1, 0), value=IGNORED),
            attention_mask=masks,
            position_ids=upload(F.pad(position_ids, (0, 1)), device),
            past_key_values=cache,
        )[:, 1:]
    return suffixes.mean(packed.totals(logps))
