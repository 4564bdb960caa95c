"""Models in somebody's own code, whatever family they say they are: scored and generated right, or not from a cache."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from tests.signals.answer_likelihood.families import TINY, rollouts_of_four, word_tokenizer
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaModel
from trl.trainer.utils import add_fused_lm_head

from a2tgpo.integrations.trl.plain_head import add_plain_head, why_own_logits
from a2tgpo.messages import warn_once
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.hf_generate_engine import why_no_cache_reuse
from a2tgpo.rollout.reuse_check import _found as found_in_generation
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, cache_check, fused_forward, plain_forward


class BlindAttention(LlamaAttention):
    """Attend to every key there is so far, whatever the mask says."""

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
        cache, n_new = kwargs.get("past_key_values"), hidden_states.size(1)
        n_before = 0 if cache is None else cache.get_seq_length(self.layer_idx)
        sees = torch.ones(n_new, n_before + n_new, dtype=torch.bool).tril(n_before)[None, None]
        return super().forward(hidden_states, attention_mask=sees, **kwargs)


class BlindLlama(LlamaForCausalLM):
    """Say `llama` and attend in a way of its own."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            layer.self_attn = BlindAttention(config, number)


class CountingLayers(LlamaModel):
    """Count positions from the cache, whatever `position_ids` say."""

    def forward(self, input_ids: Tensor, position_ids: Any = None, past_key_values: Any = None, **kwargs: Any) -> Any:
        n_before = 0 if past_key_values is None else past_key_values.get_seq_length()
        own = torch.arange(n_before, n_before + input_ids.size(1))[None].expand(input_ids.shape)
        return super().forward(input_ids, position_ids=own, past_key_values=past_key_values, **kwargs)


class CountingLlama(LlamaForCausalLM):
    """Say `llama` and number tokens in a way of its own."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = CountingLayers(config)


class PlainSubclass(LlamaForCausalLM):
    """Add nothing."""


class ScaledLlama(LlamaForCausalLM):
    """Scale and cap the logits by numbers that no configuration names."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 3 * torch.tanh(output.logits * 0.25)
        return output


def made(kind: type[LlamaForCausalLM], **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = kind(LlamaConfig(**TINY | changes)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def scorer(method: str) -> AnswerScorer:
    return AnswerScorer(AnswerScaffold("it is ( {answer} )"), word_tokenizer(), "log_probability", method=method)


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which models were checked."""
    monkeypatch.setattr(cache_check, "_found", {})
    found_in_generation.clear()
    warn_once.cache_clear()


@pytest.mark.parametrize("kind", [BlindLlama, CountingLlama])
def test_a_forward_that_ignores_what_it_is_told_is_not_read_from_its_cache(
    caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    """Custom attention without masks, and positions of its own, in models whose configuration is Llama's: what "auto"
    finds is what rows find, and the warning says that they differ."""
    model, batch = made(kind), rollouts_of_four()
    read = plain_forward(model)
    with caplog.at_level(logging.WARNING, logger="a2tgpo"):
        found = scorer("auto").score(read, model.config, **batch)
    expected = scorer("rows").score(read, model.config, **batch)
    assert found.likelihood.equal(expected.likelihood)
    assert "differ from its rows" in caplog.text


def test_a_subclass_that_changes_nothing_is_read_from_its_cache(caplog: pytest.LogCaptureFixture) -> None:
    """It is looked at, and found to agree."""
    model, batch = made(PlainSubclass), rollouts_of_four()
    with caplog.at_level(logging.WARNING, logger="a2tgpo"):
        found = scorer("auto").score(plain_forward(model), model.config, **batch)
    expected = scorer("rows").score(plain_forward(model), model.config, **batch)
    torch.testing.assert_close(found.likelihood, expected.likelihood, atol=1e-4, rtol=0)
    assert not caplog.records and len(cache_check._found) == 1


def test_a_batch_without_boundaries_settles_nothing() -> None:
    """Rollouts that searched for nothing cannot show that a cache is cut wrongly: the next batch is looked at too."""
    model, batch = made(BlindLlama), rollouts_of_four()
    nothing = batch | {"model_mask": batch["completion_mask"]}
    read = plain_forward(model)
    scorer("auto").score(read, model.config, **nothing)
    found = scorer("auto").score(read, model.config, **batch)
    assert found.likelihood.equal(scorer("rows").score(read, model.config, **batch).likelihood)


@pytest.mark.parametrize(
    ("kind", "reuses"), [(LlamaForCausalLM, True), (PlainSubclass, True), (BlindLlama, False), (CountingLlama, False)]
)
def test_generation_trusts_the_cache_of_a_model_that_it_has_seen_agree(kind: Any, reuses: bool) -> None:
    """Two rows of different lengths are read in two forwards, and each alone."""
    model = made(kind)
    reason = why_no_cache_reuse(model, Sampler(model, GenerationConfig(pad_token_id=0, eos_token_id=None)))
    assert (reason is None) == reuses, reason
    assert len(found_in_generation) == (kind is not LlamaForCausalLM)


def test_logits_made_in_a_way_of_its_own_are_the_models() -> None:
    """TRL's head knows nothing of the scale: the difference is named, and the plain head gives the model's own
    log-probabilities."""
    assert why_own_logits(_with_head(made(PlainSubclass))) is None
    assert why_own_logits(_with_head(made(LlamaForCausalLM))) is None
    model = _with_head(made(ScaledLlama))
    assert "ScaledLlama makes its logits otherwise" in str(why_own_logits(model))
    add_plain_head(model)
    ids = torch.tensor([[3, 5, 7, 9]])
    expected = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(fused_forward(model)(ids, ids)[0, 1:], expected)


def _with_head(model: LlamaForCausalLM) -> LlamaForCausalLM:
    add_fused_lm_head(model)
    return model
