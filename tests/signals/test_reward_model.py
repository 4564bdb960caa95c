"""Process reward models are loaded by what they are, frozen, and refused before they could mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from a2tgpo.errors import SignalError
from a2tgpo.signals import PrefixReward, StepReward, process_reward_model
from tests.integrations.parts import tiny_llama
from tests.signals.parts import (
    ROLLOUTS,
    byte_tokenizer,
    rollout,
    sequence_classifier,
    token_classifier,
)


@pytest.mark.parametrize(("make", "kind"), [(token_classifier, StepReward), (sequence_classifier, PrefixReward)])
def test_a_path_gives_the_model_that_was_saved_there(tmp_path: Path, make: Any, kind: type) -> None:
    """A folder written by `save_pretrained` gives the signal of its architecture and the same numbers as the model;
    both are in evaluation mode, and no parameter asks for a gradient."""
    tokenizer = byte_tokenizer()
    model = make(tokenizer).train()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, ready = process_reward_model(str(tmp_path), device="cpu"), process_reward_model(model, tokenizer)
    assert isinstance(loaded, kind) and isinstance(ready, kind)
    assert loaded(ROLLOUTS) == ready(ROLLOUTS)
    for signal in (loaded, ready):
        assert not signal.classifier.model.training
        assert not any(parameter.requires_grad for parameter in signal.classifier.model.parameters())


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    """A causal language model would get a classification head of random numbers: ValueError names its architecture
    and those that work, by path and as a module."""
    model = tiny_llama(byte_tokenizer())
    model.save_pretrained(tmp_path)
    for given in (str(tmp_path), model):
        with pytest.raises(ValueError, match=r"architecture 'LlamaForCausalLM'; pass one .* ForTokenClassification"):
            process_reward_model(given, byte_tokenizer())


def test_unclear_models_are_refused() -> None:
    """No tokenizer, three labels, and a padding token that model and tokenizer disagree on each raise with a remedy."""
    tokenizer = byte_tokenizer()
    with pytest.raises(ValueError, match="needs its own tokenizer"):
        process_reward_model(token_classifier(tokenizer))
    with pytest.raises(ValueError, match="num_labels=3; use one with 1 label"):
        process_reward_model(token_classifier(tokenizer, num_labels=3), tokenizer)
    with pytest.raises(ValueError, match=r"pad_token_id is \d+ in .* and None in its config; set both"):
        process_reward_model(sequence_classifier(tokenizer, pad_token_id=None), tokenizer)


@pytest.mark.parametrize("make", [token_classifier, sequence_classifier])
def test_nothing_is_cut(make: Any) -> None:
    """A rollout that fits to the token is scored; one token more, of the model's or of the tokenizer's limit, raises
    SignalError with the length, the limit and what to do. So does a row without tokens."""
    tokenizer = byte_tokenizer(bos=False)
    fits, longer = rollout("p" * 40, ("t", "o" * 22)), rollout("p" * 41, ("t", "o" * 22))
    for limit in ({"max_position_embeddings": 64}, {}):
        tokenizer.model_max_length = 10**9 if limit else 64
        signal = process_reward_model(make(tokenizer, **limit), tokenizer)
        assert len(signal([fits])[0]) == 1
        with pytest.raises(SignalError, match=r"65 tokens.* 1 to 64; lower max_completion_length"):
            signal([fits, longer])
    with pytest.raises(SignalError, match="a row of 0 tokens"):
        signal.classifier.scores([[1], []])
