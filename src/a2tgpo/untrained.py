"""Make a small policy of random weights that reads bytes: what demonstrations alone make of it, it can do."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from a2tgpo.files import new_folder

UNTRAINED = "a2tgpo:untrained"
"""Its name in recipes: for an environment of one's own, on a CPU, without a download."""

_VERSION = 2
_NAMES = ("think", "result", "answer", "search", "act", "move", "guess", "query")
_TAGS = tuple(f"<{slash}{name}>" for name in _NAMES for slash in ("", "/"))
_ROLES = ("system", "user", "assistant")
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def untrained_policy() -> str:
    """Return the folder of the policy, beside the Hub's cache, where it is made, always the same, at first use."""
    folder = Path(HF_HOME) / "a2tgpo" / f"untrained-{_VERSION}"
    if not folder.is_dir():
        tokenizer = byte_tokenizer()
        with torch.random.fork_rng(devices=[]), new_folder(folder) as unfinished:
            torch.manual_seed(0)
            LlamaForCausalLM(_config(tokenizer)).save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
    return str(folder)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token for each byte and role, and for each tag of the protocol and of our tools."""
    pad, eos = "<|pad|>", "<|end|>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    roles = [f"<|{role}|>" for role in _ROLES]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in (pad, eos, *roles)])
    backend.add_tokens([AddedToken(token, normalized=False) for token in _TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        eos_token=eos,
        chat_template=_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the shape: 0.36 M parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
