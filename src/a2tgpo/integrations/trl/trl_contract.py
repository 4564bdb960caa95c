"""Check that the installed TRL is one the trainer can stand on, and name what moved where it is not."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from importlib.metadata import version

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from trl import GRPOTrainer
from trl.trainer import utils

from a2tgpo.errors import MissingExtra

WORKS = "trl>=1.14,<1.17"
"""The releases that the project's tests of the trainer ran on (docs/trl.md)."""

_PASSED_ON = {
    "_generate_and_score_completions": ("inputs",),
    "_generate": ("prompts",),
    "_generate_single_turn": ("prompt_ids", "images", "multimodal_fields"),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_get_per_token_logps_and_entropies": ("model",),
    "_compute_loss": ("model", "inputs"),
    "_prepare_inputs": ("generation_batch",),
    "training_step": ("model", "inputs", "num_items_in_batch"),
    "log": ("logs", "start_time"),
}
"""Method that we override -> what its first arguments are."""


@functools.cache
def check_trl() -> None:
    """Try what the trainer relies on of TRL beyond its documentation, once in a process.

    Raises:
        MissingExtra: something is not as it was; the message names it and the releases that work.
    """
    moved = [*_moved_methods(), *_moved_sampler()]
    if moved:
        raise MissingExtra(
            f"trl {version('trl')} differs from what A2TGPOTrainer stands on: {'; '.join(moved)}. "
            f"pip install '{WORKS}', and please report it if that is older than yours"
        )


def _moved_methods() -> Iterator[str]:
    for name, expected in _PASSED_ON.items():
        method = getattr(GRPOTrainer, name, None)
        if method is None:
            yield f"GRPOTrainer.{name} is gone"
            continue
        found = tuple(inspect.signature(method).parameters)[1:]
        if found[: len(expected)] != expected:
            yield f"GRPOTrainer.{name} takes ({', '.join(found)}) and not ({', '.join(expected)}, …)"


def _moved_sampler() -> Iterator[str]:
    """Draw two prompts, three times each: row // num_generations must be a rollout's prompt."""
    try:
        rows = list(utils.RepeatSampler(range(4), mini_repeat_count=3, batch_size=2, repeat_count=1, seed=0))
    except (AttributeError, TypeError) as error:
        yield f"its sampler cannot be made ({error})"
        return
    if any(len(set(rows[start : start + 3])) != 1 for start in range(0, len(rows), 3)):
        yield "its sampler no longer puts a prompt's rollouts side by side"


@functools.cache
def why_plain_head(device_type: str) -> str | None:
    """Say why TRL's fused output head cannot be used for a model on this device, or None where it can.

    On a CPU a tiny model is asked through it, which takes milliseconds; elsewhere its kernel has to be there.
    """
    add_head = getattr(utils, "add_fused_lm_head", None)
    if add_head is None:
        return "it has no add_fused_lm_head"
    if device_type != "cpu":
        return None if getattr(utils, "_ChunkedLogProbFunction", None) else "the kernel of its fused head is not there"
    with torch.random.fork_rng(devices=()), torch.no_grad():
        config = LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=8,
        )
        model, ids, cache = LlamaForCausalLM(config).eval(), torch.arange(4)[None], DynamicCache(config=config)
        expected = model(input_ids=ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        try:
            add_head(model, outputs=("log_probs", "entropy"))
            found = model(input_ids=ids, labels=ids, fused_lm_head=True, past_key_values=cache).log_probs
        except Exception as error:  # whatever a kernel raises for a device that it is not for
            return f"its fused head does not run on this device ({error})"
    if not torch.allclose(found, expected, atol=1e-4):
        return "its fused head gives other log-probabilities than the model"
    return None if cache.get_seq_length() == 4 else "its fused head does not fill the KV cache it is given"
