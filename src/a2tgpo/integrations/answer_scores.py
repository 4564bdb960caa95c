"""Answer likelihoods of a generation batch in TRL's tensors, from a pass over its trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from a2tgpo.scoring import LabelLogps, Scores

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from a2tgpo.integrations.trl_trainer import A2TGPOTrainer


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
    prompt_ids, completion_ids = input_ids.tensor_split([input_ids.size(1) - completion_length], dim=1)
    prompt_mask, completion_mask = attention_mask.tensor_split([attention_mask.size(1) - completion_length], dim=1)
    return trainer._scorer.score(
        forward,
        config,
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        model_mask=trainer._model_mask(completion_mask),
        answers=trainer._batch["answers"],
        old_logps=old_logps,
        tokens_per_batch=trainer.rows_per_forward * input_ids.size(1),
    )
