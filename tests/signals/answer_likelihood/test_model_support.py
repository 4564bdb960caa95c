import pytest
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from a2tgpo.signals.answer_likelihood import why_not_cached


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(),
        Qwen2Config(),
        Qwen3Config(),
        GemmaConfig(),
        GPT2Config(),
        MistralConfig(sliding_window=None),
        LlamaConfig(attn_implementation="eager"),
        LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    ],
    ids=lambda config: config.model_type,
)
def test_full_attention_models_can_be_cut(config):
    """Nothing speaks against the cache where every layer keeps every key."""
    assert why_not_cached(config) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Gemma2Config(), "DynamicSlidingWindowLayer"),
        (Gemma3TextConfig(), "DynamicSlidingWindowLayer"),
        (MistralConfig(sliding_window=64), "DynamicSlidingWindowLayer"),
        (Qwen2Config(use_sliding_window=True, max_window_layers=2), "DynamicSlidingWindowLayer"),
        (MambaConfig(), "LinearAttentionLayer"),
        (Qwen3NextConfig(), "LinearAttentionLayer"),
        (BloomConfig(), "position from its column"),
        (MptConfig(), "position from its column"),
        (FalconConfig(alibi=True), "position from its column"),
        (GPTNeoConfig(), "position from its column"),
        (LlamaConfig(attn_implementation="flash_attention_2"), "attn_implementation='sdpa'"),
        (LlamaConfig(attn_implementation="flex_attention"), "attn_implementation='sdpa'"),
        (
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "rope_type 'dynamic'",
        ),
        (
            Phi3Config(
                sliding_window=None,
                rope_parameters={
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 48,
                    "long_factor": [2.0] * 48,
                    "rope_theta": 1e4,
                    "original_max_position_embeddings": 4096,
                },
            ),
            "rope_type 'longrope'",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_every_other_model_says_why_not(config, reason):
    """Windows, recurrent states, column-bound positions, length-bound rotations and mask-free kernels."""
    assert reason in why_not_cached(config)
