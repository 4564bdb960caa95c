"""Windows, states and kernels without masks, cut at turn boundaries: any layout, padding, budget and wrapping."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.signals.answer_likelihood.families import CHANGES, rollouts_of_four, tiny_model, word_tokenizer
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

from a2tgpo.messages import warn_once
from a2tgpo.signals import FrozenReference
from a2tgpo.signals.answer_likelihood import (
    AnswerScaffold,
    AnswerScorer,
    cache_check,
    fused_forward,
    packed_suffixes,
    plain_forward,
)

WINDOWED, RECURRENT = ["gemma3_text", "gpt_oss", "llama4_text"], ["qwen3_5_text", "lfm2", "falcon_h1", "nemotron_h"]
TOKENIZER = word_tokenizer()
CACHED = AnswerScorer(AnswerScaffold("it is ( {answer} )"), TOKENIZER, "log_probability", alias="best", method="cached")
ROWS = replace(CACHED, method="rows")


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    """Each tiny model once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHANGES, "llama4_text", CHANGES["llama4_text"] | {"attn_temperature_tuning": False})
        return {family: tiny_model(family) for family in (*WINDOWED, *RECURRENT)}


def close(found: Any, expected: Any) -> None:
    """Compare likelihoods and old log-probabilities."""
    torch.testing.assert_close(found.likelihood, expected.likelihood, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.old_logps, expected.old_logps, atol=1e-4, rtol=0)


@st.composite
def rollouts(draw: st.DrawFn) -> dict[str, Any]:
    """Up to three rollouts of any turns, some of a single token, with prompts of 1 to 9 tokens."""
    layouts = draw(
        st.lists(
            st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=4), min_size=1, max_size=3
        )
    )
    lengths = [draw(st.integers(1, 9)) for _ in layouts]
    masks = [[kind for turn, seen in layout for kind in (1,) * turn + (0,) * seen] for layout in layouts]
    n_prompt, n_completion = max(lengths) + draw(st.integers(0, 3)), max(map(len, masks)) + draw(st.integers(0, 3))
    ids = torch.randint(2, 48, (len(masks), n_prompt + n_completion), generator=torch.Generator().manual_seed(1))
    prompt = torch.tensor([[0] * (n_prompt - length) + [1] * length for length in lengths])
    model = torch.tensor([mask + [0] * (n_completion - len(mask)) for mask in masks])
    completion = torch.tensor([[1] * len(mask) + [0] * (n_completion - len(mask)) for mask in masks])
    return {
        "prompt_ids": ids[:, :n_prompt],
        "prompt_mask": prompt,
        "completion_ids": ids[:, n_prompt:],
        "completion_mask": completion,
        "model_mask": model,
        "answers": [["paris", "new york"][: 1 + row % 2] for row in range(len(masks))],
    }


@pytest.mark.parametrize("family", [*WINDOWED, *RECURRENT])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=rollouts(), tokens=st.sampled_from([None, 1, 60]))
def test_any_layout_is_scored_as_its_rows(models: Any, family: str, batch: dict[str, Any], tokens: int | None) -> None:
    """Ragged boundaries, one-token turns and prompts, padding on both sides and any budget of tokens: what the cache
    gives is what rows of their own give."""
    model = models[family]
    forward = plain_forward(model)
    close(
        CACHED.score(forward, model.config, **batch, tokens_per_batch=tokens),
        ROWS.score(forward, model.config, **batch),
    )


@pytest.mark.parametrize("family", RECURRENT)
def test_padding_does_not_wear_a_state_out(models: Any, family: str) -> None:
    """Forty more columns of padding on either side, over which decay would run, leave every number where it was."""
    model, batch = models[family], rollouts_of_four()
    forward = plain_forward(model)
    before = CACHED.score(forward, model.config, **batch)
    wide = dict(batch)
    for name in ("prompt_ids", "prompt_mask"):
        wide[name] = pad(batch[name], (40, 0))
    for name in ("completion_ids", "completion_mask", "model_mask"):
        wide[name] = pad(batch[name], (0, 40))
    after = CACHED.score(forward, model.config, **wide)
    torch.testing.assert_close(after.likelihood, before.likelihood, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.old_logps[:, :13], before.old_logps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [*WINDOWED, *RECURRENT])
def test_later_tokens_cannot_leak_into_a_boundary(models: Any, family: str) -> None:
    """Replacing everything from the last observation on changes only what is read after it."""
    model, batch = models[family], rollouts_of_four()
    forward = plain_forward(model)
    before = CACHED.score(forward, model.config, **batch).likelihood
    batch["completion_ids"][3, 8:12] = 11
    after = CACHED.score(forward, model.config, **batch).likelihood
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=1e-5, rtol=0)
    assert (after[3, 3] - before[3, 3]).abs() > 1e-4


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_5_text"])
def test_the_model_runs_twice_a_micro_batch_and_is_left_as_it_was(models: Any, family: str) -> None:
    """One forward over the trajectories and one over the suffixes, however many boundaries; afterwards no module runs
    anything but its own forward, and keys alone (without old log-probabilities) give the same likelihoods."""
    model, batch, calls = models[family], rollouts_of_four(), []
    forward = plain_forward(model)
    found = CACHED.score(forward, model.config, **batch)  # the first rollout of a model is scored both ways
    hook = model.model.register_forward_hook(lambda *_: calls.append(1))
    again = CACHED.score(forward, model.config, **batch, old_logps=False)
    hook.remove()
    assert len(calls) == 2
    torch.testing.assert_close(again.likelihood, found.likelihood, atol=1e-5, rtol=0)
    assert not any("forward" in vars(module) for module in model.modules())


def test_modules_get_their_forward_back_when_one_of_them_fails(models: Any) -> None:
    """An error inside a recurrent module passes through and leaves none of them replaced."""
    model = models["qwen3_5_text"]
    forward, batch = plain_forward(model), rollouts_of_four()
    CACHED.score(forward, model.config, **batch)
    own = model.model.layers[0].linear_attn.out_proj
    model.model.layers[0].linear_attn.out_proj = None
    try:
        with pytest.raises(TypeError):
            CACHED.score(forward, model.config, **batch)
    finally:
        model.model.layers[0].linear_attn.out_proj = own
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_5_text", "lfm2"])
def test_adapters_and_trls_head(family: str) -> None:
    """Through TRL's head and a LoRA adapter on every linear layer the cache gives what rows give, and so does the
    frozen reference, which switches the adapter off."""
    peft = pytest.importorskip("peft")
    add_fused_lm_head = pytest.importorskip("trl.trainer.utils").add_fused_lm_head
    model, batch = tiny_model(family), rollouts_of_four()
    add_fused_lm_head(model, temperature=0.7)
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5)
    ).eval()
    own = fused_forward(wrapped)
    close(CACHED.score(own, model.config, **batch), ROWS.score(own, model.config, **batch))
    reference = FrozenReference.of(wrapped)
    frozen = CACHED.score(reference.forward, reference.config, **batch)
    close(frozen, ROWS.score(reference.forward, reference.config, **batch))
    assert not torch.allclose(frozen.likelihood, CACHED.score(own, model.config, **batch).likelihood, atol=1e-3)


def test_layers_that_share_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 4's last layers read the keys of layers before them, behind windows as in full."""
    kinds = ["sliding_attention", "full_attention"] * 2
    changes = CHANGES["gemma4_text"] | {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": kinds,
        "hidden_size_per_layer_input": 4,
    }
    monkeypatch.setitem(CHANGES, "gemma4_text", changes)
    model, batch = tiny_model("gemma4_text"), rollouts_of_four()
    forward = plain_forward(model)
    close(CACHED.score(forward, model.config, **batch), ROWS.score(forward, model.config, **batch))


# --- attention that takes no mask of ours --------------------------------------------------------------------------


def _unpadded(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attend causally within each row's real tokens, as FlashAttention does: from a 2D mask or none."""
    assert attention_mask is None or attention_mask.ndim == 2, "a kernel without masks was given one"
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    found = torch.zeros_like(query)
    for row in range(len(query)):
        real = slice(None) if attention_mask is None else attention_mask[row].bool()
        parts = (x[row, :, real] for x in (query, key, value))
        found[row, :, real] = scaled_dot_product_attention(*parts, is_causal=True, scale=scaling)
    return found.transpose(1, 2), None


@pytest.fixture
def flash() -> Iterator[str]:
    """Register a stand-in for FlashAttention, which needs a GPU."""
    name = "stand_in_without_masks"
    AttentionInterface.register(name, _unpadded)
    AttentionMaskInterface.register(name, flash_attention_mask)
    yield name
    AttentionInterface._global_mapping.pop(name)
    AttentionMaskInterface._global_mapping.pop(name)


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_5_text"])
def test_flash_attention_reads_the_trajectory_and_sdpa_the_answers(flash: str, family: str) -> None:
    """The trajectory's pass is the user's kernel's, the answers are read by sdpa on the same keys, equal to rows by
    the user's kernel, and the setting stays the user's."""
    model, batch, used = tiny_model(family, flash), rollouts_of_four(), []
    forward = plain_forward(model)
    expected = ROWS.score(forward, model.config, **batch)
    close(CACHED.score(forward, model.config, **batch), expected)
    model.model.register_forward_pre_hook(lambda *_: used.append(model.config._attn_implementation))
    close(CACHED.score(forward, model.config, **batch), expected)
    assert used == [flash, "sdpa"]
    assert model.config._attn_implementation == flash


@pytest.mark.filterwarnings("ignore")
def test_flex_attention_reads_the_trajectory_and_sdpa_the_answers() -> None:
    """The same with flex attention itself, without a stand-in."""
    model, batch = tiny_model("llama", "flex_attention"), rollouts_of_four()
    forward = plain_forward(model)
    try:
        expected = ROWS.score(forward, model.config, **batch)
    except Exception as error:  # it is compiled, which wants a compiler
        pytest.skip(f"flex attention does not run here: {type(error).__name__}")
    close(CACHED.score(forward, model.config, **batch), expected)
    assert model.config._attn_implementation == "flex_attention"


# --- never silently wrong ------------------------------------------------------------------------------------------


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which models were checked."""
    monkeypatch.setattr(cache_check, "_found", {})
    warn_once.cache_clear()


def test_a_cache_that_is_cut_wrongly_is_noticed(
    models: Any, unseen: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A window that is one token too wide shows on the first rollout: "auto" gives what rows give and says why once,
    "cached" refuses."""
    near = packed_suffixes.PackedSuffixes._near
    monkeypatch.setattr(
        packed_suffixes.PackedSuffixes,
        "_near",
        lambda self, attended, layer, device: near(self, attended, replace(layer, window=layer.window + 1), device),
    )
    model, batch = models["gemma3_text"], rollouts_of_four()
    forward = plain_forward(model)
    with caplog.at_level(logging.WARNING, logger="a2tgpo"):
        found = [replace(CACHED, method="auto").score(forward, model.config, **batch) for _ in range(2)]
    expected = ROWS.score(forward, model.config, **batch)
    assert all(scores.likelihood.equal(expected.likelihood) for scores in found)
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("a2tgpo")]
    assert "separate rows" in warning and "differ from its rows" in warning
    with pytest.raises(ValueError, match="differ from its rows"):
        CACHED.score(forward, model.config, **batch)


def test_an_unknown_architecture_that_cannot_take_the_cache_falls_back(unseen: None, caplog: Any) -> None:
    """A model type that no test has seen and whose forward fails on a 4D mask is scored by rows, with the error in
    the warning; dropout in training mode is no difference between the two ways."""
    model, batch = tiny_model("llama").train(), rollouts_of_four()
    model.config.model_type = "something_new"
    forward = plain_forward(model)
    plain = model.model.forward

    def picky(*args: Any, **kwargs: Any) -> Any:
        if kwargs["attention_mask"].ndim == 4:
            raise IndexError("too many dimensions")
        return plain(*args, **kwargs)

    model.model.forward = picky
    with caplog.at_level(logging.WARNING, logger="a2tgpo"):
        replace(CACHED, method="auto").score(forward, model.config, **batch)
    assert "IndexError: too many dimensions" in caplog.text
    assert model.training and model.model.training


def test_an_unknown_architecture_that_agrees_is_read_from_its_cache(unseen: None, caplog: Any) -> None:
    """A new model type of the usual kind needs no entry in any list."""
    model, batch = tiny_model("llama"), rollouts_of_four()
    model.config.model_type = "something_new"
    with caplog.at_level(logging.WARNING, logger="a2tgpo"):
        close(
            replace(CACHED, method="auto").score(plain_forward(model), model.config, **batch),
            CACHED.score(plain_forward(model), model.config, **batch),
        )
    assert not [record for record in caplog.records if record.name.startswith("a2tgpo")]


def test_a_forward_that_names_no_model_cannot_find_its_states(models: Any, unseen: None) -> None:
    """A callable of the user's own over a recurrent model is refused with a way out."""
    model, batch = models["qwen3_5_text"], rollouts_of_four()
    forward = plain_forward(model)
    with pytest.raises(ValueError, match="plain_forward or fused_forward"):
        CACHED.score(lambda *args, **kwargs: forward(*args, **kwargs), model.config, **batch)
