"""The starting policy, kept as it was, to score gold answers in the policy's place."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from torch import Tensor
from trl.trainer.utils import use_adapter

from a2tgpo.integrations.trl.collective import sharded_by
from a2tgpo.signals.answer_likelihood import LabelLogps, fused_forward

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, eq=False)
class FrozenReference:
    """What `AnswerScorer.score` needs to read information gain from the starting policy.

        scores = scorer.score(reference.forward, reference.config, ...)

    The gain of a turn then says what its observation brought to a fixed reader: it does not grow because the policy
    learns the answers, and costs a second pass over each trajectory.
    """

    forward: LabelLogps
    config: PreTrainedConfig

    @classmethod
    def of(cls, policy: PreTrainedModel, accelerator: Accelerator) -> FrozenReference:
        """Freeze `policy`, before its first update and before it is wrapped for training.

        `policy` has TRL's fused output head, and the reference keeps its temperature. A full model is copied. A PEFT
        model is not: its reference is TRL's, the adapter named "ref" where there is one (TRL adds it when it trains
        an existing adapter with beta > 0), otherwise the base model without adapter.

        Raises:
            ValueError: a model that is sharded over processes.
        """
        _refuse_sharded(accelerator)
        if is_peft_model(policy):
            return cls(_reference_adapter(policy, fused_forward(policy, accelerator.autocast)), policy.config)
        frozen = copy.deepcopy(policy).to(accelerator.device).eval().requires_grad_(False)
        return cls(fused_forward(frozen, accelerator.autocast), frozen.config)


def _reference_adapter(policy: Any, forward: LabelLogps) -> LabelLogps:
    def with_reference_adapter(input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Tensor:
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            return forward(input_ids, labels, **model_kwargs)

    return with_reference_adapter


def _refuse_sharded(accelerator: Accelerator) -> None:
    if (kind := sharded_by(accelerator)) is not None:
        raise ValueError(
            f"the frozen reference is a copy of the whole policy, which {kind} keeps in shards; score information "
            "gain with the policy itself, or train without sharding"
        )
