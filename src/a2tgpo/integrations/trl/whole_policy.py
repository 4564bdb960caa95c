"""Save a policy whole, from wherever training has spread its parameters, and refuse what could not be saved so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from a2tgpo import processes
from a2tgpo.errors import RecipeError
from a2tgpo.integrations.trl.accelerate_collective import sharded_by

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


def whole_policy(trainer: Trainer) -> PreTrainedModel | None:
    """Return the policy of a trainer unwrapped; None where no process has all of it, as with FSDP and ZeRO-3."""
    return None if sharded_by(trainer.accelerator) else trainer.accelerator.unwrap_model(trainer.model)


def save_whole(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the policy of a trainer and its tokenizer as a folder that any library opens; a collective."""
    policy = whole_policy(trainer)
    if policy is None:
        trainer.save_model(str(folder))
    else:
        processes.on_main(lambda: policy.save_pretrained(folder))
    processes.on_main(lambda: tokenizer.save_pretrained(folder))


def part_with_deepspeed() -> None:
    """Let another trainer of this process have DeepSpeed, which accelerate gives to the first alone: a warm start's."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    if AcceleratorState._shared_state and AcceleratorState().distributed_type == DistributedType.DEEPSPEED:
        AcceleratorState._reset_state()


def check_stage() -> None:
    """Refuse DeepSpeed ZeRO-3 before a model is opened, which it would spread over the processes at once.

    Raises:
        RecipeError: it is asked for, by the launcher or the recipe.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise RecipeError(
            "DeepSpeed ZeRO-3: an evaluation would ask every process for equally many forwards, and answers differ in "
            "length; shard with FSDP2 (`a2tgpo launcher fsdp2`) or ZeRO-2 (`a2tgpo launcher zero2`)"
        )


def check_strategy(accelerator: Accelerator) -> None:
    """Refuse a strategy that a run cannot honour, in all processes alike.

    Raises:
        RecipeError: the launcher asked for FSDP or DeepSpeed and the run would be without; or the strategy is one whose
            checkpoints cannot be opened, or that generation cannot work with.
    """
    kind, found = sharded_by(accelerator), accelerator.distributed_type.value
    for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED")):
        if os.environ.get(variable, "false").lower() == "true" and found != name:
            raise RecipeError(
                f"{variable}=true: the launcher asked for {name} and the run would be {found} without it, as with "
                "use_cpu; leave that out, or launch without it"
            )
    if kind == "FSDP":
        raise RecipeError(
            "fsdp_version=1: rollouts need all parameters at hand, which FSDP2 gives; set fsdp_version: 2, as "
            "`a2tgpo launcher fsdp2` does"
        )
    if kind == "FSDP2" and "FULL_STATE_DICT" not in str(accelerator.state.fsdp_plugin.state_dict_type):
        raise RecipeError(
            f"fsdp_state_dict_type={accelerator.state.fsdp_plugin.state_dict_type}: a run opens its checkpoints as "
            "models; set FULL_STATE_DICT, as `a2tgpo launcher fsdp2` does"
        )
