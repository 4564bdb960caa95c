"""Neither the warm start nor an update ever holds logits for a whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM
from trl.kernels import chunked_logprob
from trl.trainer import utils

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.warm_start import warm_start
from tests.integrations import parts
from tests.run.parts import write_recipe

VOCABULARY, AT_ONCE = 2003, 8
SEARCH = search_turn("find it", "Kelo mentor")


class LargestLogits(TorchDispatchMode):
    """Remembers the most elements of any tensor made with the vocabulary's dimension, gradients included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and VOCABULARY in tensor.shape:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's fused head works on a few tokens at a time, as it does on real sizes."""
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", AT_ONCE)
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", VOCABULARY)


def wide_model(tokenizer: Any) -> LlamaForCausalLM:
    """A model whose vocabulary is so large, and whose layers are so narrow, that logits would be the largest tensor."""
    torch.manual_seed(0)
    shape = dict(hidden_size=AT_ONCE, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ids = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape, **ids))


def test_the_warm_start_makes_no_whole_logits(tmp_path: Path) -> None:
    """Two supervised steps on four rows of forty tokens: no tensor has logits of more than eight tokens."""
    tokenizer = build_tokenizer()
    config = load_recipe(str(write_recipe(tmp_path / "recipe.yaml", tmp_path)))
    rows = [{"input_ids": [5 + i] * 40, "completion_mask": [0] * 10 + [1] * 30} for i in range(8)]
    with LargestLogits() as largest:
        warm_start(wide_model(tokenizer), tokenizer, rows, config, tmp_path / "out")
    assert 0 < largest.elements <= AT_ONCE * VOCABULARY


def test_a_step_makes_no_whole_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole A²TGPO step, scoring and update and their gradients: no tensor has logits of more than eight tokens."""
    monkeypatch.setattr(parts, "tiny_llama", wide_model)
    scripts = [[SEARCH, answer_turn("bora")], [answer_turn("kelo")], [SEARCH, SEARCH, answer_turn("bora")], ["no tag"]]
    trainer = parts.scripted_trainer(tmp_path, scripts)
    with LargestLogits() as largest:
        trainer.train()
    assert 0 < largest.elements <= AT_ONCE * VOCABULARY
