"""Open the trainer's model for generation and for scoring, and let TRL load a reference of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo.integrations.trl.accelerate_collective import sharded_by

if TYPE_CHECKING:
    from accelerate import Accelerator
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
        gathered(model, trainer.accelerator),
    ):
        yield _without_adapter_shell(model)


@contextmanager
def reading(trainer: GRPOTrainer) -> Iterator[Any]:
    """Yield the model for passes without gradient, of which processes may make different numbers.

    Parameters that training has spread over processes are at hand in each, so that none waits for another.
    """
    if sharded_by(trainer.accelerator) is None:
        with disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
            yield trainer.model
        return
    with generating(trainer) as model:
        yield model


@contextmanager
def gathered(model: Any, accelerator: Accelerator) -> Iterator[None]:
    """Hold all parameters of a model under FSDP2 in every process; others are left as they are. A collective."""
    units = {name: unit for name, unit in model.named_modules() if isinstance(unit, FSDPModule)}
    if "" in units:
        # The first forward makes its module the root; the language model inside adapters is not.
        units[""]._get_fsdp_state()._lazy_init()
    for unit in units.values():
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        again = bool(getattr(accelerator.state.fsdp_plugin, "reshard_after_forward", True)) if units else True
        for name, unit in units.items():
            unit.reshard()
            # Of layers alone: embedding and head are the last of the forward and the first of the backward.
            if name.rpartition(".")[2].isdigit():
                unit.set_reshard_after_forward(again, recurse=False)


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
        # In several processes transformers writes in the first alone; here each has a folder of its own.
        model.should_save_on_this_rank = lambda is_main_process: True
        model.save_pretrained(folder)
        del model.should_save_on_this_rank
        model.config._name_or_path = folder
        try:
            yield
        finally:
            model.config._name_or_path = ""
