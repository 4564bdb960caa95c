"""Answer likelihoods read while rollouts are generated, for batches that need no old log-probabilities.

A batch that feeds one update is learned from by the policy that wrote it: TRL makes no pass over its trajectories,
except to correct for vLLM, and the answers, read from the keys of generation, need none either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.signals.answer_likelihood import Boundaries, Scores, fused_forward
from a2tgpo.signals.answer_likelihood.model_support import needs_additive_mask

if TYPE_CHECKING:
    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer


def answer_reader(trainer: A2TGPOTrainer, model: PreTrainedModel, n_rows: int) -> AnswerReader | None:
    """The reader for this process's `n_rows` rollouts of the batch that `model` is about to generate.

    None where the batch is scored by a pass of its own: TRL makes one over the trajectories anyway, turns are scored by
    something other than the policy, rollouts branch (a row's own text then begins after its prompt) or are replaced, or
    an option asks for what kept keys do not show; and outside a batch.
    """
    scorer, answers = trainer._scorer, trainer._batch.get("answers", [])
    kept = scorer.method != "rows" and not scorer.cut_last_result
    if trainer._pass_ahead or trainer.method.shares_turns or not trainer._scores_policy:
        return None
    if trainer._refiller is not None or not kept or len(answers) != n_rows:
        return None
    forward = fused_forward(model, trainer.accelerator.autocast)
    return AnswerReader(forward, scorer.suffixes(answers), additive_mask=needs_additive_mask(model.config))


def kept_scores(trainer: A2TGPOTrainer, reader: AnswerReader, boundaries: Boundaries) -> Scores:
    """What `reader` found, at the boundaries that TRL's masks leave."""
    shape = boundaries.exists.shape
    answer_logps = torch.zeros(shape)
    for row, found in reader.answer_logps.items():
        n_found = min(len(found), shape[1])
        answer_logps[row, :n_found] = torch.tensor(found[:n_found])
    likelihood = trainer._scorer.likelihood_of(answer_logps.to(boundaries.exists.device), boundaries)
    return Scores(likelihood, None, boundaries, seconds_logps=0.0, seconds_gain=reader.seconds)
