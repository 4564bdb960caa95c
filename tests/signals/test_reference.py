"""The frozen reference: its gain is the definition's, with weights that training does not reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from a2tgpo.core import information_gain
from a2tgpo.signals import FrozenReference
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, LabelLogps, Scores, fused_forward
from tests.integrations.parts import tiny_llama
from tests.signals.parts import byte_tokenizer

TOKENIZER = byte_tokenizer(bos=False)
SCORER = AnswerScorer(AnswerScaffold("so it is {answer}."), TOKENIZER)
PROMPTS = ["who leads Kelo?", "and Mitu?", "who?"]
PIECES = [["find Kelo", " led by bora", "it is bora"], ["look", " no", "look up", " none"], ["bora"]]
ANSWERS = [["bora"], ["kelo", "Kelo town"], ["mitu"]]
TEMPERATURE = 0.7


def policy(seed: int = 0) -> PreTrainedModel:
    """A random policy with TRL's output head."""
    model = tiny_llama(TOKENIZER, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from uniform, so that the gains are not all 0
    add_fused_lm_head(model, temperature=TEMPERATURE)
    return model


@pytest.fixture
def batch() -> dict[str, Any]:
    """Left-padded prompts and right-padded completions; pieces alternate between policy and environment."""
    prompts = [TOKENIZER(prompt)["input_ids"] for prompt in PROMPTS]
    pieces = [[TOKENIZER(piece)["input_ids"] for piece in row] for row in PIECES]
    completions = [[token for piece in row for token in piece] for row in pieces]
    masks = [[int(k % 2 == 0) for k, piece in enumerate(row) for _ in piece] for row in pieces]
    n_prompt, length = max(map(len, prompts)), max(map(len, completions))

    def padded(rows: list[list[int]], left: int = 0) -> torch.Tensor:
        return torch.tensor([[0] * (left - len(row)) + row + [0] * (length - len(row)) * (not left) for row in rows])

    return {
        "prompt_ids": padded(prompts, n_prompt),
        "prompt_mask": padded([[1] * len(row) for row in prompts], n_prompt),
        "completion_ids": padded(completions),
        "completion_mask": padded([[1] * len(row) for row in completions]),
        "model_mask": padded(masks),
        "answers": ANSWERS,
    }


def gain(scores: Scores) -> torch.Tensor:
    """Information gain at the scored boundaries."""
    return information_gain(scores.likelihood, scores.boundaries.is_process)


@torch.no_grad()
def likelihood(model: PreTrainedModel, text: str, answer: str) -> float:
    """exp of the mean log-probability of the answer's bytes after `text` and the scaffold, from one unpadded row."""
    prefix, answered = TOKENIZER(f"{text}so it is ")["input_ids"], TOKENIZER(answer)["input_ids"]
    logits = model(input_ids=torch.tensor([prefix + answered])).logits[0, len(prefix) - 1 : -1].double()
    logps = (logits / TEMPERATURE).log_softmax(-1)
    return logps.gather(-1, torch.tensor(answered)[:, None]).mean().exp().item()


def by_definition(model: PreTrainedModel) -> torch.Tensor:
    """v_t − v_{t−1} of every process turn, each likelihood from a row of its own."""
    expected = torch.zeros(3, 2)
    for i, (text, row, answers) in enumerate(zip(PROMPTS, PIECES, ANSWERS, strict=True)):
        before = likelihood(model, text, answers[0])
        for t in range(len(row) // 2):
            text += row[2 * t] + row[2 * t + 1]
            after = likelihood(model, text, answers[0])
            expected[i, t], before = after - before, after
    return expected


def test_the_gain_is_the_definitions_and_stays(batch: dict[str, Any]) -> None:
    """The reference's gain equals separate rows of the starting weights, built anew, at the policy's temperature; a
    step of an optimizer that moves the policy and its gain leaves every bit of the reference's likelihoods."""
    accelerator, model = Accelerator(cpu=True), policy().train()
    reference = FrozenReference.of(model, device=accelerator.device, autocast=accelerator.autocast)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer = accelerator.prepare(model, optimizer)

    def frozen() -> Scores:
        return SCORER.score(reference.forward, reference.config, **batch)

    def policys() -> torch.Tensor:
        return gain(SCORER.score(fused_forward(model), model.config, **batch))

    before, start = frozen(), policys()
    torch.testing.assert_close(gain(before), by_definition(policy()), atol=1e-8, rtol=1e-3)
    torch.testing.assert_close(gain(before), start)
    assert (gain(before).abs() > 1e-6).sum() == 3
    ids = batch["completion_ids"]
    loss = -fused_forward(model)(ids, ids, attention_mask=batch["completion_mask"]).sum()
    accelerator.backward(loss)
    optimizer.step()
    assert torch.equal(frozen().likelihood, before.likelihood)
    assert not torch.allclose(policys(), start, atol=0, rtol=1e-2)


def test_an_adapter_is_switched_off(batch: dict[str, Any]) -> None:
    """With PEFT the reference is the base model, or the adapter named "ref"; the policy's own adapter is active again
    afterwards, and the base model is not copied."""
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(policy(), settings)
    reference = FrozenReference.of(model)

    def score(forward: LabelLogps) -> torch.Tensor:
        return SCORER.score(forward, model.config, **batch).likelihood

    own, frozen = score(fused_forward(model)), score(reference.forward)
    torch.testing.assert_close(frozen, score(fused_forward(policy())))
    assert not torch.allclose(own, frozen, rtol=1e-2)
    assert torch.equal(score(fused_forward(model)), own)
    model.add_adapter("ref", settings)
    assert not torch.allclose(score(reference.forward), frozen, rtol=1e-2)
    assert torch.equal(score(fused_forward(model)), own)
