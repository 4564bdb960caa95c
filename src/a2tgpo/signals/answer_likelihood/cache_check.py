"""Score one rollout both ways before a model is trusted to be read from its cache: never silently wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.forward import LabelLogps, ModelForward, model_of
from a2tgpo.signals.answer_likelihood.kv_cache import CacheNotFilledError
from a2tgpo.signals.answer_likelihood.model_support import needs_check, own_part
from a2tgpo.signals.answer_likelihood.passes import Reading, read_logps
from a2tgpo.signals.answer_likelihood.scaffold import SuffixBatch
from a2tgpo.signals.answer_likelihood.token_budget import MicroBatch
from a2tgpo.signals.answer_likelihood.trajectories import Trajectories

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TOLERANCE, _LOW_PRECISION_TOLERANCE = 1e-3, 0.1
"""Nats by which mean log-probabilities may differ, relative where they are below −1: rounding of one forward cut in two
ways is far below, and a boundary, a window or a state that is off by one is far above in float32. Half precision shows
no more than gross faults; the tests compare every family in float32."""

_found: dict[tuple[str, str | None, str | None], str | None] = {}


def why_not_trusted(
    forward: LabelLogps,
    model_config: PreTrainedConfig,
    trajectories: Trajectories,
    boundaries: Boundaries,
    suffixes: SuffixBatch,
    device: torch.device,
    tokens_per_batch: int | None,
) -> str | None:
    """Say how the cache and rows of their own disagree about the shortest rollout, or None when they agree.

    It is asked once for each configuration in this process, and not at all of families that the tests have seen agree
    and whose layers keep all keys. A batch without a boundary behind its prompts shows little, and is asked again.
    Under torch.distributed, call it in every process: all answer alike.

    Raises:
        CacheNotFilledError: the model dropped the cache, which is no fault of its kind.
    """
    model = model_of(forward)
    if not needs_check(model_config, model):
        return None
    own = None if model is None else own_part(model)
    key = model_config.to_json_string(), model_config.get_text_config(decoder=True)._attn_implementation, own
    if key in _found:
        return _found[key]
    row = _telling_row(trajectories, boundaries)
    part = MicroBatch((row,), slice(0, trajectories.input_ids.shape[1]))
    batch = trajectories.take(part), boundaries.take([row]), suffixes.take([row])
    with _evaluating(model):
        reason = _difference(forward, model_config, batch, device, tokens_per_batch)
    reason = _anywhere(reason, device)
    says_little = _in_any_process(int(boundaries.exists[row].sum()) < 2, device)
    if reason is not None or not says_little:
        _found[key] = reason
    return reason


def _telling_row(trajectories: Trajectories, boundaries: Boundaries) -> int:
    """Choose the shortest rollout with a boundary behind its prompt, and padding before it where there is one."""
    length = trajectories.attention_mask.sum(1)
    says_little = boundaries.exists.sum(1) < 2
    return int((length + 10**9 * says_little + 10**8 * trajectories.attention_mask[:, 0]).argmin())


def _difference(
    forward: LabelLogps,
    model_config: PreTrainedConfig,
    batch: tuple[Trajectories, Boundaries, SuffixBatch],
    device: torch.device,
    tokens_per_batch: int | None,
) -> str | None:
    def read(config: PreTrainedConfig | None) -> Reading:
        return read_logps(
            forward, *batch, device, cache_config=config, old_logps=True, tokens_per_batch=tokens_per_batch
        )

    rows = read(None)
    try:
        cached = read(model_config)
    except (CacheNotFilledError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever an architecture nobody has seen makes of a cache and a mask
        return f"reading them from its cache raised {type(error).__name__}: {str(error)[:200]}"
    is_read = rows.answer_logps.isfinite()
    worst = max(
        float(((mine - theirs).abs() / theirs.abs().clamp(min=1)).max())
        for mine, theirs in (
            (cached.answer_logps[is_read], rows.answer_logps[is_read]),
            (cached.trajectory_logps, rows.trajectory_logps),
        )
    )
    if worst <= (_TOLERANCE if _is_full_precision(forward, device) else _LOW_PRECISION_TOLERANCE):
        return None
    model_type = model_config.get_text_config(decoder=True).model_type
    return f"model type {model_type!r} gives log-probabilities from its cache that differ from its rows' by {worst:.1e}"


def _is_full_precision(forward: LabelLogps, device: torch.device) -> bool:
    model = model_of(forward)
    if model is None:
        return False
    if isinstance(forward, ModelForward):
        with forward.autocast():
            if torch.is_autocast_enabled(device.type):
                return False
    return next(model.parameters()).dtype in (torch.float32, torch.float64)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off, which would tell two readings apart."""
    training = [module for module in (model.modules() if model is not None else ()) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _anywhere(reason: str | None, device: torch.device) -> str | None:
    """Make one process's reason everybody's."""
    differs = _in_any_process(reason is not None, device)
    return reason or ("another process saw its cache and its rows differ" if differs else None)


def _in_any_process(holds: bool, device: torch.device) -> bool:
    if not (distributed.is_available() and distributed.is_initialized()):
        return holds
    found = torch.tensor(int(holds), device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)
