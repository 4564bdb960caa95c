"""Every causal family of transformers as a tiny random model, and how its answers are scored.

`docs/models.md` is made from this table by `scripts/model_table.py`, and `test_families.py` holds both to what happens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.hf_generate_engine import why_no_cache_reuse
from a2tgpo.signals.answer_likelihood import AnswerScorer, plain_forward

WORDS = ["<pad>", "<eos>", "it", "is", "(", ")", "paris", "rome", "new", "york", "the", "city", "of", "light"]
VOCABULARY = 48
ANSWERS = [["paris"], ["new york", "the city"], ["rome", "paris", "the city of light"], ["the city of light"]]

MADE_WITH = "5.23"
"""The transformers whose families these are."""

LEFT_OUT: Any = object()
"""The value of a field that this family's configuration does not take."""

TINY: dict[str, Any] = {
    "vocab_size": 48,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.15,  # far from uniform, so that a wrong token, key or state shows
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Set to 4 tokens where a family's own configuration has one."""

_EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {**_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
_DENSE_FIRST = {**_ROUTED, "first_k_dense_replace": 1}
_LATENT = {
    **_DENSE_FIRST,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "head_dim": LEFT_OUT,
}
_INDEXED = {**_LATENT, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_ALTERNATING = {"layer_types": ["linear_attention", "full_attention"]}
_WINDOW_FIRST = {"layer_types": ["sliding_attention", "full_attention"]}
_MAMBA_2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
_DECODER = {"is_decoder": True}
_HALF_OF_TWO = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "init_std": 0.15,
    "is_decoder": True,
    "is_encoder_decoder": False,
    "max_position_embeddings": 64,
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), LEFT_OUT),
    **dict.fromkeys(("num_key_value_heads", "head_dim"), LEFT_OUT),
}

CHANGES: dict[str, dict[str, Any]] = {
    "afmoe": {**_DENSE_FIRST, **_WINDOW_FIRST},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": _LATENT,
    "axk2": _INDEXED,
    "bailing_hybrid": {**_LATENT, **_ALTERNATING},
    "bamba": {**_MAMBA_2, "attn_layer_indices": [1]},
    "bart": _HALF_OF_TWO,
    "beam": _WINDOW_FIRST,
    "bert": _DECODER,
    "bert-generation": _DECODER,
    "big_bird": _DECODER,
    "bigbird_pegasus": _HALF_OF_TWO,
    "blenderbot": _HALF_OF_TWO,
    "blenderbot-small": _HALF_OF_TWO,
    "camembert": _DECODER,
    "codegen": {"rotary_dim": 8},
    "cohere": {"logit_scale": 0.25},
    "cohere2": _WINDOW_FIRST,
    "cohere2_moe": {**_EXPERTS, **_WINDOW_FIRST},
    "cwm": {"bos_token_id": 2, **_WINDOW_FIRST},
    "data2vec-text": _DECODER,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _INDEXED,
    "dots1": _DENSE_FIRST,
    "dots3_note_text": {"num_key_value_heads": 4},
    "electra": {**_DECODER, "embedding_size": 32},
    "ernie": _DECODER,
    "ernie4_5_moe": {**_EXPERTS, "moe_num_experts": 4, "moe_k": 2},
    "exaone4": _WINDOW_FIRST,
    "exaone_moe": {**_ROUTED, **_WINDOW_FIRST, "is_moe_layer": [False, True]},
    "falcon": {"head_dim": LEFT_OUT, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
    "flex_olmo": _EXPERTS,
    "flint": {**_ROUTED, **_WINDOW_FIRST},
    "gemma2": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 3.0, **_WINDOW_FIRST},
    "gemma3_text": _WINDOW_FIRST,
    "gemma4_text": {
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 48,
        "global_head_dim": 8,
        **_WINDOW_FIRST,
    },
    "gemma4_unified_text": {"num_kv_shared_layers": 0, "global_head_dim": 8, **_WINDOW_FIRST},
    "glm4_moe": _DENSE_FIRST,
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _INDEXED,
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_hidden_layers": LEFT_OUT},
    "gpt_oss": {**_EXPERTS, **_WINDOW_FIRST},
    "gptj": {"rotary_dim": 8},
    "granite": {"logits_scaling": 3.0},
    "granite_swa": _WINDOW_FIRST,
    "granitemoe": _EXPERTS,
    "granitemoe_swa": {**_EXPERTS, **_WINDOW_FIRST},
    "granitemoehybrid": {**_MAMBA_2, **_EXPERTS, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 16},
    "granitemoeshared": {**_EXPERTS, "shared_intermediate_size": 16},
    "hunyuan_v1_moe": _EXPERTS,
    "hy_v3": _DENSE_FIRST,
    "hy_v4": _INDEXED,
    "jamba": {**_EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4},
    "jetmoe": _EXPERTS,
    "kimi_linear": {**_LATENT, **_ALTERNATING},
    "laguna": _ROUTED,
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {**_EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {**_EXPERTS, "intermediate_size_mlp": 48, "layer_types": ["chunked_attention", "full_attention"]},
    "longcat_flash": {
        **_LATENT,
        "head_dim": 8,
        "expert_ffn_hidden_size": 16,
        "ffn_hidden_size": 48,
        "num_layers": 1,
        "num_hidden_layers": LEFT_OUT,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2},
    "marian": _HALF_OF_TWO,
    "mbart": _HALF_OF_TWO,
    "megatron-bert": _DECODER,
    "mellum": _ROUTED,
    "mimo_v2_flash": {**_ROUTED, **_WINDOW_FIRST},
    "minicpm3": _LATENT,
    "minimax": {**_EXPERTS, "layer_types": ["linear_attention", "full_attention"]},
    "minimax_m2": _EXPERTS,
    "mixtral": _EXPERTS,
    "modernbert-decoder": {"bos_token_id": 2},
    "moshi": {"sliding_window": LEFT_OUT},
    "mvp": _HALF_OF_TWO,
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
    },
    "olmo3": _WINDOW_FIRST,
    "olmo_hybrid": {**_DELTA, **_ALTERNATING},
    "olmoe": _EXPERTS,
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48, "max_position_embeddings": 64},
    "pegasus": _HALF_OF_TWO,
    "phimoe": _EXPERTS,
    "plbart": _HALF_OF_TWO,
    "prophetnet": {"num_decoder_layers": 2, "num_encoder_layers": 2, "num_hidden_layers": LEFT_OUT},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_moe_text": {**_EXPERTS, **_DELTA, **_ALTERNATING, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": {**_DELTA, **_ALTERNATING},
    "qwen3_moe": {**_EXPERTS, "output_router_logits": True},
    "qwen3_next": {**_EXPERTS, **_DELTA, **_ALTERNATING, "shared_expert_intermediate_size": 16},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "rembert": {**_DECODER, "output_embedding_size": 32, "input_embedding_size": 32},
    "roberta": _DECODER,
    "roberta-prelayernorm": _DECODER,
    "roc_bert": {**_DECODER, "enable_pronunciation": False, "enable_shape": False},
    "roformer": _DECODER,
    "solar_open": _ROUTED,
    "trocr": _HALF_OF_TWO,
    "whisper": _HALF_OF_TWO,
    "xglm": {"d_model": 32, "ffn_dim": 48, "attention_heads": 4, "num_layers": 2, "max_position_embeddings": 64},
    "xlm-roberta": _DECODER,
    "xlm-roberta-xl": _DECODER,
    "xlnet": {"d_model": 32, "n_head": 4, "d_head": 8, "n_layer": 2, "d_inner": 48, "head_dim": LEFT_OUT},
    "xmod": {**_DECODER, "default_language": "en_XX"},
    "youtu": _LATENT,
    "zamba": {
        "num_hidden_layers": 6,
        "layer_types": ["mamba", "hybrid"] * 3,
        "n_mamba_heads": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "zamba2": {
        **_MAMBA_2,
        "layer_types": ["mamba", "hybrid"],
        "num_mem_blocks": 1,
        "hybrid_layer_ids": [1],
        "mamba_headdim": 16,
        "n_mamba_heads": 4,
        "mamba_ngroups": 1,
    },
}
"""What a family's tiny configuration has beside, or instead of, `TINY`."""

_MULTIMODAL = "holds an encoder of images or sound beside its language model, which is a family of its own"
_LARGE = "its configuration has no tiny form"
NOT_BUILT = {
    **dict.fromkeys(("emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "git", "got_ocr2"), _MULTIMODAL),
    **dict.fromkeys(("llama4", "mllama", "moss_transcribe_diarize", "phi4_multimodal", "qwen3_5"), _MULTIMODAL),
    **dict.fromkeys(("qwen3_5_moe", "qwen4_exp", "dots3_note", "musicgen", "musicgen_melody"), _MULTIMODAL),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model and reads its cache"),
    **dict.fromkeys(("blt", "cohere_compass_text", "dbrx", "gemma3n_text", "qwen4_exp_text", "reformer"), _LARGE),
}
"""Families that this table does not build, and why."""


def tiny_model(family: str, attention: str | None = None) -> PreTrainedModel:
    """Build the family's tiny random model, the same one every time."""
    config_class = CONFIG_MAPPING[family]
    fields = TINY | {name: 4 for name in WINDOWS if getattr(config_class, name, None) is not None}
    fields = {name: value for name, value in (fields | CHANGES.get(family, {})).items() if value is not LEFT_OUT}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_class(**fields), attn_implementation=attention).eval()


def families() -> list[str]:
    """Name the causal families of the installed transformers that this table builds."""
    return [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in NOT_BUILT]


_WORDS = {
    "DynamicLayer": "attention",
    "DynamicSlidingWindowLayer": "window",
    "LinearAttentionLayer": "state",
    "LinearAttentionAndFullAttentionLayer": "attention and state",
    "LinearAttentionAndSlidingWindowAttentionLayer": "window and state",
    "DummyLayer": "neither",
}


@dataclass(frozen=True)
class Row:
    """One line of `docs/models.md`."""

    family: str
    layers: str
    scored: str
    generated: str

    def __str__(self) -> str:
        return f"| `{self.family}` | {self.layers} | {self.scored} | {self.generated} |"


def describe(model: PreTrainedModel, family: str, scorer: AnswerScorer, rollouts: dict[str, Any]) -> tuple[Row, Any]:
    """Score `rollouts` with a family's `model` as its answers are scored; give the row, and the scores where cached."""
    config = model.config
    kinds = dict.fromkeys(type(layer).__name__ for layer in DynamicCache(config=config).layers)
    layers = ", ".join(_WORDS.get(kind, kind) for kind in kinds)
    from_cache = "KV cache" + (" and states" if "state" in layers else "")
    obstacle = why_no_cache_reuse(model, Sampler(model, GenerationConfig(do_sample=False)))
    generated = from_cache if obstacle is None else "reads its context anew"
    try:
        forward = plain_forward(model)
    except ValueError:
        return Row(family, layers, "not: `plain_forward` does not know how it makes its logits", generated), None
    try:
        scores = scorer.score(forward, config, **rollouts)
    except ValueError as error:
        reason = re.sub(r"^method='cached' cannot score this model: |\. Or use method='rows'\.$", "", str(error))
        reason = re.sub(r"^model type '\S+' | by \S+$", "", reason)
        return Row(family, layers, f"rows: {reason}", generated), None
    return Row(family, layers, from_cache, generated), scores


def rollouts_of_four() -> dict[str, Any]:
    """Make four left-padded rollouts: 2 process turns and an answer; an answer alone; 1 process turn without answer;
    3 process turns and an answer, closed by the environment's EOS."""
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
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "model_mask": model_mask,
        "answers": ANSWERS,
    }


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of whole words."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
