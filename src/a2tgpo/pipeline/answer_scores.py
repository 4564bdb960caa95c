"""Likelihoods of a generation batch in TRL's tensors, from a pass over its trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from a2tgpo.signals.answer_likelihood import LabelLogps, Scores, policy_logps
from a2tgpo.signals.answer_likelihood.trajectories import Trajectories

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer


@torch.no_grad()
def score_answers(
    trainer: A2TGPOTrainer,
    forward: LabelLogps,
    config: Any,
    input_ids: Int[Tensor, "B S"],
    attention_mask: Int[Tensor, "B S"],
    completion_length: int,
    *,
    old_logps: bool = False,
) -> Scores:
    """The likelihoods of `trainer`'s current batch, and log-probabilities on demand, as the model behind `forward`, of
    this `config`, sees them. A row is a prompt and the `completion_length` columns of its completion."""
    return trainer._scorer.score(
        forward,
        config,
        **_parts(trainer, input_ids, attention_mask, completion_length),
        answers=trainer._batch["answers"],
        old_logps=old_logps,
        tokens_per_batch=trainer.rows_per_forward * input_ids.size(1),
    )


def score_old_logps(
    trainer: A2TGPOTrainer,
    forward: LabelLogps,
    input_ids: Int[Tensor, "B S"],
    attention_mask: Int[Tensor, "B S"],
    completion_length: int,
) -> Float[Tensor, "B L"]:
    """Log-probabilities of the tokens the policy wrote in `trainer`'s current batch, 0 elsewhere, where no likelihood
    is wanted beside them."""
    parts = _parts(trainer, input_ids, attention_mask, completion_length)
    rows = Trajectories.join(**{name: part.cpu() for name, part in parts.items()}, count_padding=True)
    budget = trainer.rows_per_forward * input_ids.size(1)
    return policy_logps(forward, rows, input_ids.device, tokens_per_batch=budget)[:, -completion_length:]


def _parts(trainer: A2TGPOTrainer, input_ids: Tensor, attention_mask: Tensor, completion_length: int) -> dict[str, Any]:
    prompt_ids, completion_ids = input_ids.tensor_split([input_ids.size(1) - completion_length], dim=1)
    prompt_mask, completion_mask = attention_mask.tensor_split([attention_mask.size(1) - completion_length], dim=1)
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "model_mask": trainer._model_mask(completion_mask),
    }
