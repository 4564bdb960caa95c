"""Read log-probabilities of a batch from passes over its trajectories: gold answers', and the policy's own tokens'."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from a2tgpo.pipeline.batch import RolloutBatch, concat_prompt_completion
from a2tgpo.pipeline.microbatches import join_rows
from a2tgpo.pipeline.shared_prefix import SharedPrefix
from a2tgpo.signals.answer_likelihood import AnswerScorer, LabelLogps, Scores, fused_reading, policy_logps
from a2tgpo.signals.answer_likelihood.forward import causal_model
from a2tgpo.signals.answer_likelihood.model_support import why_not_by_mask
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED, Trajectories

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from transformers import Cache

logger = logging.getLogger(__name__)


@torch.no_grad()
def score_answers(
    batch: RolloutBatch,
    scorer: AnswerScorer,
    forward: LabelLogps,
    model_config: Any,
    *,
    rows_per_forward: int,
    old_logps: bool = False,
) -> Scores:
    """Score the gold answers at every turn boundary as the model behind `forward`, of `model_config`, sees them.

    Args:
        rows_per_forward: full-length rows whose tokens one forward may have.
        old_logps: also return the log-probability of every token the policy wrote, from the same pass.
    """
    return scorer.score(
        forward,
        model_config,
        **_scored(batch),
        old_logps=old_logps,
        tokens_per_batch=rows_per_forward * batch.ids.size(1),
    )


@torch.no_grad()
def score_answers_from(
    cache: Cache, batch: RolloutBatch, scorer: AnswerScorer, forward: LabelLogps, model_config: Any
) -> Float[Tensor, "B T+1"]:
    """Return the gold answers' likelihood at every turn boundary, read from the keys of `batch` in `cache`.

    The keys are those of all columns of the prompts, and of the completions' at least as far as their last boundary.
    The answers' own keys are appended; a graph behind the others stays as it is.
    """
    return scorer.score_from(cache, forward, model_config, **_scored(batch))


@torch.no_grad()
def score_policy(batch: RolloutBatch, forward: LabelLogps, *, rows_per_forward: int) -> Float[Tensor, "B L"]:
    """Return the log-probability of every token the policy wrote, 0 elsewhere, where no answer is scored beside."""
    rows = Trajectories.join(**_parts(batch), count_padding=True)
    device, n_columns = batch.completion_ids.device, batch.completion_ids.size(1)
    found = policy_logps(forward, rows, device, tokens_per_batch=rows_per_forward * batch.ids.size(1))
    return found[:, -n_columns:]


def _parts(batch: RolloutBatch) -> dict[str, Tensor]:
    """Name the tensors of a batch as scoring does."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "model_mask")
    return {name: getattr(batch, name) for name in names}


def _scored(batch: RolloutBatch) -> dict[str, Any]:
    """Return the tensors of a batch, the gold answers of each rollout, and where they are read.

    A rollout that failed before its environment revealed an answer is scored by another's, and never read.
    """
    stand_in = next((task.answers for task in batch.tasks if task.answers), ["0"])
    answers = [task.answers or stand_in for task in batch.tasks]
    return {**_parts(batch), "answers": answers, "boundaries": batch.boundaries}


class UpdateReading(NamedTuple):
    """Hold what the policy says of a micro-batch, with gradient; 0 on tokens that the loss does not read.

    Attributes:
        entropies: in nats.
        aux_loss: load-balancing loss of a mixture of experts, where it was asked for.
    """

    logps: Float[Tensor, "B L"]
    entropies: Float[Tensor, "B L"]
    aux_loss: Float[Tensor, ""] | None


def read_update(
    model: Any,
    columns: Mapping[str, Tensor],
    written: Bool[Tensor, "B L"],
    autocast: Callable[[], AbstractContextManager[Any]],
    *,
    aux_loss: bool = False,
    share: bool = True,
    cache: Cache | None = None,
) -> UpdateReading:
    """Run the policy over a micro-batch, tokens that its rollouts share once where that pays (`SharedPrefix`).

    Args:
        model: with TRL's fused output head and its entropies, as an engine wraps it.
        columns: an engine's `prompt_ids`, `prompt_mask`, `completion_ids` and `completion_mask`.
        written: tokens that the loss reads; the output head sees nothing else.
        autocast: the context of the forward.
        share: False keeps rows as they are, of the width that an engine gave them.
        cache: an empty one, to be filled with the keys of all columns.
    """
    ids = concat_prompt_completion(columns["prompt_ids"], columns["completion_ids"])
    mask = concat_prompt_completion(columns["prompt_mask"], columns["completion_mask"])
    n_prompt = columns["prompt_ids"].size(1)
    labels = ids.masked_fill(~pad(written, (n_prompt, 0)), IGNORED)
    options: dict[str, Any] = {"attention_mask": mask}
    policy = causal_model(model)
    obstacle = why_not_packed(
        policy, autocast, old_logps=columns.get("old_per_token_logps") is not None, aux_loss=aux_loss, share=share
    )
    if obstacle is not None:
        _tell_once(obstacle, ids, mask, policy.config)
    shared = SharedPrefix.find(ids, mask, policy.config) if obstacle is None else None
    if shared is not None:
        mask = shared.attention_mask(policy.config, policy.dtype)
        options = {"attention_mask": mask, "position_ids": shared.position_ids, "locate": shared.locate}
        ids = shared.input_ids
    if cache is not None:
        options["past_key_values"] = cache
    reading = fused_reading(model, ids, labels, autocast, aux_loss=aux_loss, **options)
    if shared is not None and cache is not None:
        shared.unpack(cache)
    assert reading.entropies is not None, "the head was added with entropies"
    return UpdateReading(reading.logps[:, n_prompt:], reading.entropies[:, n_prompt:], reading.aux_loss)


def join_readings(parts: Sequence[UpdateReading], forwards: Sequence[Sequence[int]]) -> UpdateReading:
    """Join what each of `forwards` read of its rows, in the order of the rows."""
    if len(parts) == 1:
        return parts[0]
    logps, entropies = (join_rows([getattr(one, name) for one in parts], forwards) for name in ("logps", "entropies"))
    return UpdateReading(logps, entropies, None)


def why_not_packed(
    model: Any,
    autocast: Callable[[], AbstractContextManager[Any]],
    *,
    old_logps: bool,
    aux_loss: bool = False,
    share: bool = True,
) -> str | None:
    """Say why updates of this model leave rows that begin alike as they are, or None when they pack them where it pays.

    Args:
        old_logps: the ratio is to log-probabilities of another pass. In half precision rows are then not packed: the
            ratio would be one of numbers rounded in different orders, which turns of a few thousandths of clip range
            see.
        aux_loss, share: see `read_update`.
    """
    policy = causal_model(model)
    if not share:
        return "pad_to_multiple_of sets the width of a row"
    if aux_loss:
        return "a load-balancing loss counts the tokens of each rollout"
    if (obstacle := why_not_by_mask(policy.config, policy)) is not None:
        return obstacle
    with autocast():
        half = policy.dtype != torch.float32 or torch.is_autocast_enabled(policy.device.type)
    if old_logps and half:
        return "in half precision their ratio to old log-probabilities would be one of different roundings"
    return None


_LOOKS = 16
"""Micro-batches in which rows are compared to see whether packing them would pay, where they are not packed."""

_looks: Counter[str] = Counter()


def _tell_once(obstacle: str, ids: Tensor, mask: Tensor, config: Any) -> None:
    """Name what keeps rows from being packed, at the first of a few micro-batches that packing would have paid for."""
    if _looks[obstacle] == _LOOKS:
        return
    _looks[obstacle] += 1
    if SharedPrefix.find(ids, mask, config) is None:
        return
    _looks[obstacle] = _LOOKS
    logger.warning(
        "Rollouts of an update begin alike, and each is computed as a row of its own, because %s. Computing the tokens "
        "they share once would save a fifth of the update or more.",
        obstacle,
    )
