"""Rollouts written by hand, a byte-level tokenizer, tiny random classifiers, a tool and its environment."""

from __future__ import annotations

from typing import Any

from transformers import (
    BertConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    PreTrainedTokenizerFast,
    set_seed,
)

from a2tgpo.signals import Transcript, Turn
from tests.integrations.parts import qwen_tokenizer

ANSWER = Turn("so it is bora")


def rollout(prompt: str, *steps: tuple[str, str], answer: Turn | None = ANSWER) -> Transcript:
    """A transcript of (turn, observation) pairs and an answer turn."""
    turns = [Turn(text, observation) for text, observation in steps]
    return Transcript(prompt, ("bora", "bo"), (*turns, *([answer] if answer else [])))


ROLLOUTS = [
    rollout("who leads Kelo?", ("find Kelo", " Kelo: led by bora"), ("find bora", " no results"), ("stop", "")),
    rollout("who leads Kelo?"),
    rollout("and Mitu, the other town?", ("find Mitu", " Mitu is far from Kelo, says the map"), answer=None),
    rollout("who leads Kelo?", ("find Kelo", " Kelo: led by bora"), ("find the leader of Mitu", " no")),
]


def byte_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """One token per byte, with or without a beginning-of-sequence token."""
    tokenizer = qwen_tokenizer()
    if bos:
        tokenizer.bos_token = "<|im_start|>"
    return tokenizer


def encoder_config(tokenizer: Any) -> BertConfig:
    """A one-layer encoder, which reads in both directions, whose scores differ."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )


def classifier_config(tokenizer: Any, num_labels: int, **changes: Any) -> LlamaConfig:
    """A two-layer Llama whose scores differ enough for a wrong position to show."""
    settings: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        num_labels=num_labels,
    )
    return LlamaConfig(**(settings | changes))


def token_classifier(tokenizer: Any, num_labels: int = 2, **changes: Any) -> LlamaForTokenClassification:
    """A random token classifier."""
    set_seed(0)
    return LlamaForTokenClassification(classifier_config(tokenizer, num_labels, **changes))


def sequence_classifier(tokenizer: Any, num_labels: int = 1, **changes: Any) -> LlamaForSequenceClassification:
    """A random sequence classifier."""
    set_seed(0)
    return LlamaForSequenceClassification(classifier_config(tokenizer, num_labels, **changes))


def lookup(name: str) -> str:
    """Look a name up.

    Args:
        name: the name.
    """
    return f"the mentor of {name} is bora"


class Library:
    """An environment with one tool."""

    def reset(self, **_: Any) -> None:
        """Nothing to forget."""

    def lookup(self, name: str) -> str:
        """Look a name up.

        Args:
            name: the name.
        """
        return lookup(name)
