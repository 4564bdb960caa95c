"""Find out before the warm start what would end a run after it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from a2tgpo.errors import A2TGPOError, RecipeError, needs_extra
from a2tgpo.integrations.trl.checks import check_batch_size
from a2tgpo.pipeline.plugins import load_rewards, load_turn_signal
from a2tgpo.pretrained import check_chat_template
from a2tgpo.run.interrupt import updates_per_batch
from a2tgpo.signals import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from a2tgpo.integrations.trl.config import A2TGPOConfig
    from a2tgpo.run.base_task import Task
    from a2tgpo.run.recipe import RunConfig


def check_run(config: RunConfig, task: Task, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Refuse a recipe whose updates could not begin: too few questions, a chat template, trackers, vLLM, the Hub.

    Raises:
        RecipeError, DataError, MissingExtra, JudgeError: one line that names what is missing and what to do.
    """
    training = config.training
    check_chat_template(tokenizer, config.recipe.system_prompt, training.chat_template_kwargs)
    task.check(tokenizer)
    if training.max_steps == 0:
        return
    load_rewards(config.recipe.reward, task.rewards)
    signal = load_turn_signal(config.recipe.turn_signal, config.recipe.judge)
    if isinstance(signal, Judge):
        signal.check()
    check_batch_size(len(task.train_dataset), training)
    _check_trackers(training.report_to)
    if training.use_vllm:
        with needs_extra("vllm", "use_vllm=True"):
            import vllm  # noqa: F401
    if config.model.use_peft:
        with needs_extra("peft", "use_peft=True"):
            import peft  # noqa: F401
    if config.quantizes and (not config.model.use_peft or config.recipe.warm_start_steps):
        raise RecipeError(
            f"load_in_4bit={config.model.load_in_4bit}, load_in_8bit={config.model.load_in_8bit}: weights of so few "
            "bits are not trained, only adapters on them; set use_peft: true and warm_start_steps: 0"
        )
    if training.push_to_hub:
        _check_hub(training.hub_token)
    if config.recipe.best_checkpoint and training.save_strategy == "no":
        raise RecipeError("best_checkpoint=True with save_strategy='no': there would be no checkpoint to choose from")
    _check_evaluation(training)
    per_batch = updates_per_batch(training)
    if training.save_strategy == "steps" and training.save_steps % per_batch:
        console.print(
            f"save_steps={training.save_steps:g} is no multiple of the {per_batch} updates of a batch: a run that is "
            "killed goes on with a new batch instead of the rest of one",
            style="yellow",
            highlight=False,
        )


def check_construction(make_trainer: Callable[[], Any]) -> None:
    """Make a trainer and throw it away, so that what it refuses is said before the warm start.

    Raises:
        RecipeError: it refuses the recipe.
    """
    try:
        make_trainer()
    except A2TGPOError:
        raise
    except (ImportError, NotImplementedError, ValueError) as error:
        raise RecipeError(" ".join(str(error).split())) from error


def _check_evaluation(training: A2TGPOConfig) -> None:
    """Refuse to go back to a checkpoint that may be gone."""
    if training.load_best_model_at_end:
        raise RecipeError(
            "load_best_model_at_end=True: a run keeps the checkpoints that save_total_limit counts, the best perhaps "
            "not among them; best_checkpoint: true evaluates those and takes the best as the final policy"
        )


def _check_trackers(report_to: str | list[str] | None) -> None:
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise RecipeError(
                f"report_to={name!r}: no such tracker; there are {', '.join(INTEGRATION_TO_CALLBACK)}, none and all"
            )
        installed = name in get_available_reporting_integrations() or find_spec(name) is not None
        if not installed:
            raise RecipeError(f"report_to={name!r}: {name} is not installed; pip install {name}, or report_to: none")


def _check_hub(token: str | None) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().whoami(token=token)
    except Exception as error:  # whatever the network and the Hub may say
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecipeError(f"push_to_hub=True: the Hub does not let us in ({first}); `hf auth login`") from error
