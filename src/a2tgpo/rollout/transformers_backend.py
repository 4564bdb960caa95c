"""The backend that suits a Hugging Face model."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.messages import warn_once
from a2tgpo.rollout.kept_keys import KeptKeysBackend
from a2tgpo.rollout.rereading import RereadingBackend
from a2tgpo.rollout.sampler import Sampler
from a2tgpo.signals.answer_likelihood.model_support import why_not_full_attention

logger = logging.getLogger(__name__)


def transformers_backend(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generation_config: GenerationConfig,
    stop_strings: Sequence[str],
    rows_at_a_time: int = 256,
) -> KeptKeysBackend | RereadingBackend:
    """`KeptKeysBackend` wherever it draws what `generate` would, else `RereadingBackend` with a warning that says why.

    Args:
        model: unwrapped causal LM.
        tokenizer: with a padding token.
        generation_config: sampling parameters; what it leaves unset comes from the model's own. Lengths and stops are
            the backend's business: a turn ends on a stop string, or on any end token of the model, the tokenizer or
            this config.
        stop_strings: texts that close a turn.
        rows_at_a_time: most rollouts generated together.
    """
    generation_config = copy.deepcopy(generation_config)
    generation_config.eos_token_id = end_tokens(model, tokenizer, generation_config)
    sampler = Sampler(model, generation_config)
    obstacle = why_not_kept(model, sampler)
    if obstacle is None:
        return KeptKeysBackend(model, tokenizer, sampler, stop_strings, rows_at_a_time)
    warn_once(logger, f"Rollouts re-read their whole context at every turn, because {obstacle}.")
    return RereadingBackend(model, tokenizer, generation_config, tuple(stop_strings), rows_at_a_time)


def end_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig
) -> list[int]:
    """The tokens that end what `model` writes: the tokenizer's, those that the model declares, those asked for."""
    named = (tokenizer.eos_token_id, model.generation_config.eos_token_id, generation_config.eos_token_id)
    ends = [token for tokens in named for token in (tokens if isinstance(tokens, list) else [tokens])]
    return list(dict.fromkeys(token for token in ends if token is not None))


def why_not_kept(model: PreTrainedModel, sampler: Sampler) -> str | None:
    """Why `KeptKeysBackend` would not draw what `generate` does, or None where it does."""
    if (obstacle := why_not_full_attention(model.config) or sampler.obstacle) is not None:
        return obstacle
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return f"{type(model).__name__}.forward takes no logits_to_keep"
    if len(devices := {str(parameter.device) for parameter in model.parameters()}) > 1:
        return f"its layers lie on several devices ({', '.join(sorted(devices))})"
    return None
