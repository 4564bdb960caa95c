"""Open the trainer's model for generation, and let TRL load a reference of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from transformers import PreTrainedModel
from trl.models import unwrap_model_for_generation

if TYPE_CHECKING:
    from trl import GRPOTrainer


@contextmanager
def generating(trainer: GRPOTrainer) -> Iterator[PreTrainedModel]:
    """Yield the language model inside what wraps it for training, under the autocast of the trainer's updates."""
    options: dict[str, Any] = {"generation_kwargs": trainer.generation_kwargs}
    if "gradient_checkpointing_kwargs" in inspect.signature(unwrap_model_for_generation).parameters:  # TRL 1.16 on
        options["gradient_checkpointing_kwargs"] = trainer.args.gradient_checkpointing_kwargs
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            **options,
        ) as model,
        torch.no_grad(),
        trainer.accelerator.autocast(),
    ):
        yield _without_adapter_shell(model)


def _without_adapter_shell(model: Any) -> PreTrainedModel:
    """Return the language model itself where PEFT has put its adapters into it, as LoRA's.

    Prompts that PEFT puts before the text need its own forward."""
    if is_peft_model(model) and not model.active_peft_config.is_prompt_learning:
        return model.get_base_model()
    return model


@contextmanager
def loadable(model: Any, beta: float) -> Iterator[None]:
    """Give TRL a place to load the reference of a KL penalty from, for a policy that came from nowhere.

    TRL loads the reference from where the policy came from. A model made in memory is saved for as long as that takes.
    """
    if beta == 0.0 or not isinstance(model, PreTrainedModel) or model.config._name_or_path:
        yield
        return
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model.config._name_or_path = folder
        try:
            yield
        finally:
            model.config._name_or_path = ""
