"""Where TRL's fused head cannot be used, a model's own logits give what it would: numbers, gradients, updates."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DynamicCache,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    Qwen3MoeConfig,
)
from trl.trainer import utils

from a2tgpo.integrations.trl import plain_head, trl_contract
from a2tgpo.integrations.trl.plain_head import add_plain_head
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals.answer_likelihood import fused_forward, fused_reading
from tests.integrations.parts import scripted_trainer

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "gemma2, softcapped": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
    "cohere, scaled": CohereConfig(**SIZES, logit_scale=0.25),
    "granite, scaled": GraniteConfig(**SIZES, logits_scaling=3.0),
    "mixture of experts": Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8),
}
IDS = torch.tensor([[5, 9, 2, 7, 3, 8], [4, 4, 6, 2, 9, 1]])
LABELS = torch.tensor([[-100, -100, 2, 7, -100, 8], [-100, 4, -100, -100, 9, 1]])


def made(family: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[family])).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at_once", [40, 1 << 20])
def test_log_probabilities_entropies_and_gradients(family: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the softmax of the model's logits / temperature, written out, however many logits exist at a time."""
    monkeypatch.setattr(plain_head, "LOGITS_AT_ONCE", at_once)
    model = made(family)
    weights = [p for p in model.parameters() if p.requires_grad]
    logps = (model(IDS).logits / 0.7).log_softmax(-1)
    is_read = torch.nn.functional.pad(LABELS[:, 1:] != -100, (1, 0))
    rows, columns = is_read.nonzero(as_tuple=True)
    by_hand = logps[rows, columns - 1, IDS[rows, columns]]
    entropies = -(logps.exp() * logps).sum(-1)[rows, columns - 1]
    add_plain_head(model, temperature=0.7)
    found = fused_reading(model, IDS, LABELS)
    assert found.entropies is not None and not found.logps[~is_read].any() and not found.entropies[~is_read].any()
    torch.testing.assert_close(found.logps[is_read], by_hand, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropies[is_read], entropies, atol=1e-5, rtol=1e-5)
    for of_ours, of_hand in ((found.logps.sum(), by_hand.sum()), (found.entropies.sum(), entropies.sum())):
        ours, expected = (
            torch.autograd.grad(x, weights, retain_graph=True, allow_unused=True) for x in (of_ours, of_hand)
        )
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


def test_a_call_without_the_head_is_as_before() -> None:
    """Logits, loss and generation are the model's own."""
    model, plain = made("llama"), made("llama")
    add_plain_head(model, temperature=0.5)
    ours, expected = (one(IDS, labels=LABELS) for one in (model, plain))
    torch.testing.assert_close((ours.loss, ours.logits), (expected.loss, expected.logits))
    tokens = [one.generate(IDS, max_new_tokens=4, do_sample=False) for one in (model, plain)]
    assert torch.equal(*tokens)


def test_labels_are_shifted_as_trl_shifts_them() -> None:
    """TRL's own calls give labels under the tokens; a cache that is passed is filled."""
    model = made("llama")
    add_plain_head(model)
    cache = DynamicCache(config=model.config)
    output = model(input_ids=IDS, labels=LABELS, fused_lm_head=True, past_key_values=cache)
    torch.testing.assert_close(output.log_probs, fused_forward(model)(IDS, LABELS)[:, 1:])
    assert cache.get_seq_length() == 6


def test_a_copy_reads_its_own_weights() -> None:
    """A frozen reference is a deep copy; training the policy must not move it."""
    model = made("llama")
    add_plain_head(model)
    frozen = copy.deepcopy(model)
    before = fused_forward(frozen)(IDS, LABELS)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    assert torch.equal(before, fused_forward(frozen)(IDS, LABELS))
    assert not torch.equal(before, fused_forward(model)(IDS, LABELS))


def test_the_load_balancing_loss_is_the_models() -> None:
    """A mixture of experts gives it where it is asked for."""
    model = made("mixture of experts")
    expected = model(IDS, output_router_logits=True).aux_loss
    add_plain_head(model)
    found = fused_reading(model, IDS, LABELS, aux_loss=True).aux_loss
    torch.testing.assert_close(found, expected)


def no_head(model: Any, **options: Any) -> None:
    """A fused head whose kernel is not there, as in TRL 1.15 without Triton."""
    model.forward = lambda **inputs: None.apply if "fused_lm_head" in inputs else type(model).forward(model, **inputs)  # type: ignore[attr-defined]


def shifted_head(model: Any, **options: Any) -> None:
    """A fused head that gives other numbers."""
    add_plain_head(model)
    forward = model.forward

    def shifted(**inputs: Any) -> Any:
        output = forward(**inputs)
        output.log_probs = output.log_probs + 1
        return output

    model.forward = shifted


def cacheless_head(model: Any, **options: Any) -> None:
    """A fused head that leaves the cache empty."""
    add_plain_head(model)
    forward = model.forward
    model.forward = lambda **inputs: forward(**inputs | {"past_key_values": None})


@pytest.mark.parametrize(
    ("device", "head", "said"),
    [
        ("cpu", no_head, "does not run on this device"),
        ("cpu", shifted_head, "gives other log-probabilities"),
        ("cpu", cacheless_head, "does not fill the KV cache"),
        ("cpu", None, "has no add_fused_lm_head"),
        ("cuda", None, "has no add_fused_lm_head"),
        ("cuda", no_head, "kernel of its fused head is not there"),
        ("cuda", "with kernel", None),
    ],
)
def test_which_heads_are_replaced(device: str, head: Any, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a head is tried; elsewhere its kernel has to be there."""
    if head is None:
        monkeypatch.delattr(utils, "add_fused_lm_head", raising=False)
    else:
        monkeypatch.setattr(utils, "add_fused_lm_head", no_head if head == "with kernel" else head, raising=False)
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", object() if head == "with kernel" else None, raising=False)
    trl_contract.why_plain_head.cache_clear()
    why = trl_contract.why_plain_head(device)
    trl_contract.why_plain_head.cache_clear()
    assert why is None if said is None else said in str(why)


SEARCH = search_turn("find it", "Kelo mentor")
SCRIPTS = [[SEARCH, answer_turn("bora")], [answer_turn("kelo")], [SEARCH, SEARCH, answer_turn("bora")], ["nothing"]] * 2


@pytest.mark.parametrize("options", [{}, {"beta": 0.1, "num_iterations": 2}, {"process_signal": "reference"}])
def test_a_run_without_trls_head_is_the_run_with_it(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same updates, losses and gains, with a reference and a frozen one."""
    if trl_contract.why_plain_head("cpu"):
        pytest.skip("this TRL has no head that runs here to compare with")
    runs = []
    for name, why in (("theirs", None), ("ours", "it is not to be used")):
        monkeypatch.setattr(plain_head, "why_plain_head", lambda device, why=why: why)
        trainer = scripted_trainer(tmp_path / name, SCRIPTS, max_steps=2, **options)
        trainer.train()
        runs.append((trainer.model.state_dict(), trainer.state.log_history))
    (weights, history), (ours, our_history) = runs
    torch.testing.assert_close(ours, weights, atol=1e-5, rtol=1e-4)
    for one, other in zip(history[:2], our_history[:2], strict=True):
        for key in ("loss", "grad_norm", "entropy", "loss/approx_kl"):
            assert one[key] == pytest.approx(other[key], abs=1e-4), key
