"""Warm a policy up on scripted demonstrations, with TRL's SFTTrainer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from a2tgpo import processes
from a2tgpo.errors import RecipeError
from a2tgpo.integrations.trl.callbacks import replace_progress
from a2tgpo.integrations.trl.whole_policy import save_whole
from a2tgpo.run.console import StepProgress

if TYPE_CHECKING:
    from a2tgpo.run.recipe import Recipe, RunConfig


def warm_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[dict[str, list[int]]],
    config: RunConfig,
    output: Path,
) -> list[dict[str, float]]:
    """Train `model` in place on `encoded` demonstrations and save it with its tokenizer to `output`; a collective.

    Only the tokens a policy would have written carry loss: prompt, observations and the closing end-of-sequence token
    are masked (`completion_mask` 0). Where the recipe cuts batches into micro-batches, rows of similar length share
    one.

    Args:
        encoded: rows of `input_ids` and `completion_mask`, tokenised turn by turn as rollouts are.

    Returns:
        Step and loss, every ten steps: the mean over the tokens that carry loss.
    """
    recipe, training = config.recipe, config.training
    rows = [
        {
            "input_ids": row["input_ids"],
            "labels": [
                token if written else -100
                for token, written in zip(row["input_ids"], row["completion_mask"], strict=True)
            ],
        }
        for row in encoded
    ]
    micro_batch, accumulation = share_batch(recipe, processes.size())
    cut = recipe.warm_start_micro_batch_size is not None and micro_batch < recipe.warm_start_batch_size
    if cut:
        lengths = [len(row["input_ids"]) for row in rows]
        order = order_by_length(lengths, recipe.warm_start_steps, recipe.warm_start_batch_size, training.seed)
        rows = [rows[index] for index in order]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(output / "trainer"),
            max_steps=recipe.warm_start_steps,
            learning_rate=recipe.warm_start_learning_rate,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            lr_scheduler_type="linear",
            warmup_steps=max(1, recipe.warm_start_steps // 20),
            max_length=None,
            gradient_checkpointing=training.gradient_checkpointing,
            use_cpu=training.use_cpu,
            bf16=training.bf16,
            fp16=training.fp16,
            seed=training.seed,
            train_sampling_strategy="sequential" if cut else "random",
            logging_steps=10,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    replace_progress(trainer, StepProgress("warm start", {"loss": "loss", "mean_token_accuracy": "accuracy"}))
    trainer.train()
    # TRL patches the forward with its fused head; the saved model is reloaded without it.
    save_whole(trainer, tokenizer, output)
    return _losses(trainer.state.log_history)


def order_by_length(lengths: Sequence[int], steps: int, batch_size: int, seed: int) -> list[int]:
    """Return the rows of `steps` batches one after the other: drawn without replacement in each pass over the data, and
    sorted by length within a batch, so that a micro-batch of neighbours has little padding."""
    rng = random.Random(seed)
    n = steps * batch_size
    passes = (rng.sample(range(len(lengths)), len(lengths)) for _ in range(-(-n // len(lengths))))
    drawn = [index for one in passes for index in one][:n]
    batches = (drawn[start : start + batch_size] for start in range(0, n, batch_size))
    return [index for batch in batches for index in sorted(batch, key=lambda i: lengths[i])]


def share_batch(recipe: Recipe, n_processes: int) -> tuple[int, int]:
    """Return rows per forward and forwards per step of each process, so that a step has the recipe's batch.

    Raises:
        RecipeError: the processes cannot share it evenly.
    """
    batch = recipe.warm_start_batch_size
    micro_batch = min(recipe.warm_start_micro_batch_size or batch, max(1, batch // n_processes))
    if batch % (micro_batch * n_processes):
        raise RecipeError(
            f"warm_start_batch_size={batch}: {n_processes} processes with {micro_batch} rows a forward cannot share "
            "it; give a multiple of both"
        )
    return micro_batch, batch // (micro_batch * n_processes)


def _losses(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{"step": row["step"], "loss": row["loss"]} for row in history if "loss" in row]
