"""A word-level tokenizer, tiny random models and a ragged batch, shared by the scoring tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.signals.answer_likelihood.families import VOCABULARY, rollouts_of_four, word_tokenizer
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
SPREAD = {"initializer_range": 0.15}  # far from uniform, so that a wrong token or position shows
TINY = {
    **SPECIAL,
    **SPREAD,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
CONFIGS = {
    "llama": (LlamaConfig, TINY),
    "qwen3": (Qwen3Config, TINY),
    "gemma": (GemmaConfig, TINY),
    "gpt2": (GPT2Config, {**SPECIAL, **SPREAD, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "qwen3_moe": (Qwen3MoeConfig, {**TINY, **EXPERTS, "output_router_logits": True}),
    "gemma2": (Gemma2Config, {**TINY, "sliding_window": 4}),
    "gemma3": (Gemma3TextConfig, {**TINY, "sliding_window": 4}),
    "cohere": (CohereConfig, {**TINY, "logit_scale": 0.25}),
    "granite": (GraniteConfig, {**TINY, "logits_scaling": 3.0}),
    "mamba": (MambaConfig, {**SPECIAL, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "qwen3_next": (
        Qwen3NextConfig,
        {**TINY, **EXPERTS, **LINEAR, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16}
        | {"num_hidden_layers": 4},
    ),
}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="session")
def make_model():
    """Build a tiny randomly initialised model by name, the same one every time."""

    def make(name: str, attention: str | None = None, seed: int = 0, **changes):
        config_class, fields = CONFIGS[name]
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config_class(**fields | changes), attn_implementation=attention).eval()

    return make


@pytest.fixture
def batch() -> SimpleNamespace:
    """`rollouts_of_four`, by attribute."""
    return SimpleNamespace(**rollouts_of_four())
