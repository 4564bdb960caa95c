from types import SimpleNamespace

import pytest
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    JambaConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)
from transformers.cache_utils import DynamicSlidingWindowLayer

from a2tgpo.signals.answer_likelihood import model_support, why_not_cached
from a2tgpo.signals.answer_likelihood.model_support import attending_by, why_not_full_attention

FULL = [
    LlamaConfig(),
    Qwen2Config(),
    Qwen3Config(),
    GemmaConfig(),
    GPT2Config(),
    MistralConfig(sliding_window=None),
    LlamaConfig(attn_implementation="eager"),
    LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
]
CUT_OTHERWISE = [
    (Gemma2Config(), "DynamicSlidingWindowLayer"),
    (Gemma3TextConfig(), "DynamicSlidingWindowLayer"),
    (MistralConfig(sliding_window=64), "DynamicSlidingWindowLayer"),
    (Qwen2Config(use_sliding_window=True, max_window_layers=2), "DynamicSlidingWindowLayer"),
    (Qwen3NextConfig(), "LinearAttentionLayer"),
    (LlamaConfig(attn_implementation="flash_attention_2"), "attn_implementation='sdpa'"),
    (LlamaConfig(attn_implementation="flex_attention"), "attn_implementation='sdpa'"),
]
NEVER = [
    (MambaConfig(), "no state in its Mamba-1 layers"),
    (JambaConfig(), "no state in its Mamba-1 layers"),
    (BloomConfig(), "position from its column"),
    (MptConfig(), "position from its column"),
    (FalconConfig(alibi=True), "position from its column"),
    (GPTNeoConfig(), "position from its column"),
    (LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), "rope_type 'dynamic'"),
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
]


def name(value):
    return getattr(value, "model_type", None)


@pytest.mark.parametrize("config", FULL, ids=name)
def test_full_attention_is_all_there_is(config):
    """Nothing speaks against the cache, of scoring or of generation, where every layer keeps every key."""
    assert why_not_cached(config) is None
    assert why_not_full_attention(config) is None


@pytest.mark.parametrize(("config", "reason"), CUT_OTHERWISE, ids=name)
def test_windows_states_and_kernels_are_no_obstacle_to_scoring(config, reason):
    """Windows, recurrent states and mask-free kernels are cut some other way for scores; generation says why not."""
    assert why_not_cached(config) is None
    assert reason in why_not_full_attention(config)


@pytest.mark.parametrize(("config", "reason"), NEVER, ids=name)
def test_every_other_model_says_why_not(config, reason):
    """States that no forward can start from, column-bound positions and length-bound rotations refuse both."""
    assert reason in why_not_cached(config)
    assert why_not_full_attention(config) is not None


def test_windows_of_several_sizes_are_refused(monkeypatch):
    """One mask serves all windowed layers, so that two sizes are named and refused."""
    layers = [DynamicSlidingWindowLayer(4), DynamicSlidingWindowLayer(7)]
    monkeypatch.setattr(model_support, "DynamicCache", lambda config: SimpleNamespace(layers=layers))
    assert "several sizes (4, 7)" in why_not_cached(Gemma3TextConfig())


def test_the_attention_of_the_user_is_put_back_whatever_happens():
    """Inside the block the model attends otherwise; an error in it still leaves the setting as it was."""
    config = LlamaConfig(attn_implementation="flash_attention_2")
    with pytest.raises(RuntimeError), attending_by(config, "sdpa"):
        assert config._attn_implementation == "sdpa"
        raise RuntimeError
    assert config._attn_implementation == "flash_attention_2"
