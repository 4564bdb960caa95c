"""A word-level tokenizer, tiny random models and a ragged batch, shared by the scoring tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
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

WORDS = ["<pad>", "<eos>", "it", "is", "(", ")", "paris", "rome", "new", "york", "the", "city", "of", "light"]
VOCABULARY = 48
ANSWERS = [["paris"], ["new york", "the city"], ["rome", "paris", "the city of light"], ["the city of light"]]
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
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


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
    """Four left-padded rollouts: 2 process turns and an answer; an answer alone; 1 process turn without
    answer; 3 process turns and an answer, closed by the environment's EOS."""
    generator = torch.Generator().manual_seed(7)
    layouts = [
        "mmoomoommm",
        "mmmm",
        "mmmooo",
        "mommooomommE",
    ]  # m = policy, o = observation, E = appended EOS
    prompt_lengths = [5, 3, 7, 1]
    n_rollouts, n_prompt, n_completion = 4, 7, 13
    prompt_ids = torch.zeros(n_rollouts, n_prompt, dtype=torch.long)
    prompt_mask = torch.zeros(n_rollouts, n_prompt, dtype=torch.long)
    completion_ids = torch.zeros(n_rollouts, n_completion, dtype=torch.long)
    completion_mask = torch.zeros(n_rollouts, n_completion, dtype=torch.long)
    model_mask = torch.zeros(n_rollouts, n_completion, dtype=torch.long)
    for row, (layout, length) in enumerate(zip(layouts, prompt_lengths, strict=True)):
        prompt_ids[row, n_prompt - length :] = torch.randint(2, VOCABULARY, (length,), generator=generator)
        prompt_mask[row, n_prompt - length :] = 1
        ids = torch.randint(2, VOCABULARY, (len(layout),), generator=generator)
        for column, kind in enumerate(layout):
            completion_ids[row, column] = 1 if kind == "E" else ids[column]
            completion_mask[row, column] = 1
            model_mask[row, column] = kind == "m"
    return SimpleNamespace(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        model_mask=model_mask,
        answers=ANSWERS,
    )
