"""Read log-probabilities of a batch from passes over its trajectories: gold answers', and the policy's own tokens'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from a2tgpo.pipeline.batch import RolloutBatch, concat_prompt_completion
from a2tgpo.pipeline.shared_prefix import SharedPrefix
from a2tgpo.signals.answer_likelihood import AnswerScorer, LabelLogps, Scores, fused_reading, policy_logps
from a2tgpo.signals.answer_likelihood.forward import causal_model
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED, Trajectories

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from transformers import Cache


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
        batch.prompt_ids,
        batch.prompt_mask,
        batch.completion_ids,
        batch.completion_mask,
        batch.model_mask,
        _answers(batch),
        old_logps=old_logps,
        tokens_per_batch=rows_per_forward * batch.ids.size(1),
        boundaries=batch.boundaries,
    )


@torch.no_grad()
def score_answers_from(
    cache: Cache, batch: RolloutBatch, scorer: AnswerScorer, forward: LabelLogps, model_config: Any
) -> Float[Tensor, "B T+1"]:
    """Return the gold answers' likelihood at every turn boundary, read from the keys of `batch` in `cache`.

    The keys are those of all columns of the prompts, and of the completions' at least as far as their last boundary.
    The answers' own keys are appended; a graph behind the others stays as it is.
    """
    return scorer.score_from(
        cache,
        forward,
        model_config,
        batch.prompt_ids,
        batch.prompt_mask,
        batch.completion_ids,
        batch.completion_mask,
        batch.model_mask,
        _answers(batch),
        boundaries=batch.boundaries,
    )


@torch.no_grad()
def score_policy(batch: RolloutBatch, forward: LabelLogps, *, rows_per_forward: int) -> Float[Tensor, "B L"]:
    """Return the log-probability of every token the policy wrote, 0 elsewhere, where no answer is scored beside."""
    rows = Trajectories.join(
        batch.prompt_ids.cpu(),
        batch.prompt_mask.cpu(),
        batch.completion_ids.cpu(),
        batch.completion_mask.cpu(),
        batch.model_mask.cpu(),
        count_padding=True,
    )
    device, n_columns = batch.completion_ids.device, batch.completion_ids.size(1)
    found = policy_logps(forward, rows, device, tokens_per_batch=rows_per_forward * batch.ids.size(1))
    return found[:, -n_columns:]


def _answers(batch: RolloutBatch) -> list[Sequence[str]]:
    """Return the gold answers of each rollout; one that failed before its environment revealed an answer is scored by
    another's, and never read."""
    stand_in = next((task.answers for task in batch.tasks if task.answers), ["0"])
    return [task.answers or stand_in for task in batch.tasks]


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
    # A load-balancing loss counts each rollout's tokens.
    shared = None if aux_loss or not share else _shared_prefix(model, ids, mask, columns, autocast)
    if shared is not None:
        policy = causal_model(model)
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


def _shared_prefix(
    model: Any,
    ids: Int[Tensor, "B S"],
    mask: Int[Tensor, "B S"],
    columns: Mapping[str, Tensor],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> SharedPrefix | None:
    """Pack a micro-batch whose rows share enough tokens.

    In half precision only where the policy that wrote the rollouts is the one that learns. Otherwise their ratio would
    be one of numbers rounded in different orders, which turns of a few thousandths of clip range see.
    """
    policy = causal_model(model)
    if columns.get("old_per_token_logps") is not None:
        with autocast():
            if policy.dtype != torch.float32 or torch.is_autocast_enabled(ids.device.type):
                return None
    return SharedPrefix.find(ids, mask, policy.config)
