"""Keep the starting policy as it was, to score gold answers in the policy's place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from a2tgpo.signals.answer_likelihood import LabelLogps, ModelForward, fused_forward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, eq=False)
class FrozenReference:
    """Hold what `AnswerScorer.score` needs to read information gain from the starting policy.

        scores = scorer.score(reference.forward, reference.config, ...)

    The gain of a turn then says what its observation brought to a fixed reader: it does not grow because the policy
    learns the answers, and costs a second pass over each trajectory.
    """

    forward: LabelLogps
    config: PreTrainedConfig

    @classmethod
    def of(
        cls,
        policy: PreTrainedModel,
        *,
        device: torch.device | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> FrozenReference:
        """Freeze `policy`, before its first update and before it is wrapped for training.

        `policy` has TRL's fused output head, and the reference keeps its temperature. A full model is copied, to
        `device` where one is given; every process needs the whole of it, so that a sharded policy has no such
        reference. A PEFT model is not copied: its reference is TRL's, the adapter named "ref" where there is one (TRL
        adds it when it trains an existing adapter with beta > 0), otherwise the base model without adapter.

        Args:
            autocast: makes the context in which the model runs, as in `fused_forward`.
        """
        if hasattr(policy, "disable_adapter"):  # a PEFT model
            return cls(_reference_adapter(policy, fused_forward(policy, autocast)), policy.config)
        frozen = copy.deepcopy(policy).to(policy.device if device is None else device).eval().requires_grad_(False)
        return cls(fused_forward(frozen, autocast), frozen.config)


def _reference_adapter(policy: Any, forward: LabelLogps) -> LabelLogps:
    def with_reference_adapter(input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Tensor:
        with _reference_active(policy):
            return forward(input_ids, labels, **model_kwargs)

    return ModelForward(with_reference_adapter, policy)


@contextmanager
def _reference_active(policy: Any) -> Iterator[None]:
    if "ref" not in policy.peft_config:
        with policy.disable_adapter():
            yield
        return
    own = policy.active_adapter
    policy.set_adapter("ref")
    try:
        yield
    finally:
        policy.set_adapter(own)
