"""A checkpoint in transformers."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from a2tgpo.pretrained import open_model
from a2tgpo.rollout.engine import GenerationEngine
from a2tgpo.rollout.hf_generate_engine import transformers_engine
from a2tgpo.rollout.protocol import STOP_STRINGS


def checkpoint_backend(
    name: str, tokenizer: PreTrainedTokenizerBase, *, temperature: float, rows_at_a_time: int
) -> GenerationEngine:
    """Generation by the causal LM `name`: float32 on the CPU, in the checkpoint's own precision on a GPU.

    Nothing of the checkpoint's own sampling settings (top-k, top-p, penalties) applies.

    Raises:
        RecipeError: the model cannot be loaded.
    """
    device, dtype = ("cuda", "auto") if torch.cuda.is_available() else ("cpu", "float32")
    model = open_model(name, dtype=dtype).to(device).eval()
    return transformers_engine(model, tokenizer, _sampling(tokenizer, temperature), STOP_STRINGS, rows_at_a_time)


def _sampling(tokenizer: PreTrainedTokenizerBase, temperature: float) -> GenerationConfig:
    common = {"pad_token_id": tokenizer.pad_token_id, "repetition_penalty": 1.0}
    if temperature == 0:
        return GenerationConfig(do_sample=False, **common)
    return GenerationConfig(do_sample=True, temperature=temperature, top_k=0, top_p=1.0, **common)
