"""TRL's adapter and verl's give the same credit and the same gradient from the same rollouts.

The reference is a real `A2TGPOTrainer` that generates, scores and computes its loss; what it generated goes through
verl's columns: rows of a queue, shuffled, with padding, cut into uneven micro-batches over two processes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

pytest.importorskip("trl", reason="the reference is the trainer for TRL, which is not installed")

from a2tgpo import A2TGPOTrainer
from a2tgpo.integrations.verl.micro_batch import Update, micro_batch_loss, without_empty_rows
from a2tgpo.integrations.verl.queue_rows import RowOrder, as_rollouts, credit_columns, pad_likelihoods
from a2tgpo.methods import Method
from a2tgpo.pipeline import BatchCredit, SingleProcess, assign_credit, collect_signals
from tests.integrations.parts import Recorded, record_credit, scripted_trainer

SEARCH = "<think> look </think> <search> mentor of {} </search>"
ANSWER = "<think> know </think> <answer> \\boxed{{{}}} </answer>"
SCRIPTS = [
    [SEARCH.format("kelo"), ANSWER.format("bora")],
    [SEARCH.format("kelo"), SEARCH.format("bora"), ANSWER.format("mitu")],
    [ANSWER.format("bora")],
    ["<think> I cannot say"],
    [SEARCH.format("mitu"), SEARCH.format("kelo"), SEARCH.format("bora"), ANSWER.format("bora")],
    [ANSWER.format("kelo")],
    [SEARCH.format("mitu"), ANSWER.format("bora bora")],
    [SEARCH.format("kelo"), ANSWER.format("bora")],
]

METHODS = ("a2tgpo", "igpo+tg", "gspo", "a2tgpo-release")
"""Turn ratio, token mean, sequence ratio, and gains of log-probabilities."""


def forward(model: Any, prompt: Tensor, completion: Tensor) -> Tensor:
    """Log-probability of each token of a completion, its row alone and without padding."""
    logits = model(input_ids=torch.cat([prompt, completion])[None], use_cache=False).logits[0].float()
    return logits[len(prompt) - 1 : -1].log_softmax(-1).gather(-1, completion[:, None]).squeeze(-1)


def old_logps(model: Any, prompt: Tensor, completion: Tensor) -> Tensor:
    """Log-probabilities of an older policy, off by up to a few hundredths in a way that its tokens fix: ratios of all
    levels leave their clip range now and then."""
    with torch.no_grad():
        shift = 0.03 * torch.sin(completion * 1.7 + torch.arange(len(completion)) // 9)
        return forward(model, prompt, completion) + shift


def rows_of(prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Prompt and completion of each row without padding."""
    return [(p[pm.bool()], c[cm.bool()]) for p, pm, c, cm in zip(prompt_ids, prompt_mask, ids, mask, strict=True)]


def with_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> tuple[A2TGPOTrainer, Recorded, Tensor]:
    """One batch of a real trainer: its credit, and the gradient of its loss for the older policy."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, method=method, max_completion_length=256)
    recorded = record_credit(monkeypatch)
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # which the training loop sets
    prepared = dict(trainer._prepare_inputs(inputs))
    padded = (prepared[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"))
    older = [old_logps(trainer.model, *row) for row in rows_of(*padded)]
    width = prepared["completion_ids"].size(1)
    prepared["old_per_token_logps"] = torch.stack([torch.nn.functional.pad(r, (0, width - len(r))) for r in older])
    loss = trainer._compute_loss(trainer.model, prepared)
    return trainer, recorded[0], flat_gradient(loss, trainer.model)


def flat_gradient(loss: Tensor, model: Any) -> Tensor:
    """The gradient towards all parameters in one vector."""
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def with_verl(
    recorded: Recorded, model: Any, tokenizer: Any, method: Method, n_padding: int, seed: int
) -> tuple[BatchCredit, dict[str, list[Tensor]], RowOrder]:
    """The same rollouts as columns of a queue, shuffled, with padding rows, and the credit from there."""
    batch, group = recorded.batch, recorded.batch.group_size
    columns: dict[str, list[Any]] = {"prompts": [], "responses": [], "response_mask": [], "likelihood": [], "r": []}
    keys = []
    rows = rows_of(batch.prompt_ids, batch.prompt_mask, batch.completion_ids, batch.completion_mask)
    for i, (prompt, response) in enumerate(rows):
        exists = batch.boundaries.exists[i]
        likelihood = recorded.signals.likelihood
        keys.append(f"prompt{i // group}_{i % group}_0")
        columns["prompts"].append(prompt)
        columns["responses"].append(response)
        columns["response_mask"].append(batch.model_mask[i, : len(response)].long())
        columns["likelihood"].append(likelihood[i][exists] if likelihood is not None else torch.zeros(0))
        columns["r"].append(recorded.credit.outcome[i])
    for i in range(n_padding):
        keys.append(f"pad_{i}_0")
        for name, value in (("prompts", torch.ones(127).long()), ("responses", torch.ones(1).long())):
            columns[name].append(value)
        columns["response_mask"].append(torch.zeros(1).long())
        columns["likelihood"].append(torch.zeros(1))
        columns["r"].append(torch.tensor(0.0))
    shuffled = random.Random(seed).sample(range(len(keys)), len(keys))
    keys, columns = [keys[i] for i in shuffled], {n: [v[i] for i in shuffled] for n, v in columns.items()}
    order = RowOrder.of(keys, [key.startswith("pad") for key in keys])
    rollouts = as_rollouts(
        columns,
        order,
        answers=[["x"]] * len(keys),
        pad_id=tokenizer.pad_token_id,
        end_ids=(tokenizer.eos_token_id,),
        cut_last_result=False,
    )
    likelihood = pad_likelihoods(order.pick(columns["likelihood"], lambda: torch.zeros(0)), rollouts)
    signals = collect_signals(rollouts, method, tokenizer, likelihood=likelihood if method.signal else None)
    rewards = torch.stack(order.pick(columns["r"], lambda: torch.tensor(torch.nan)))
    credit = assign_credit(rollouts, signals, rewards, method, SingleProcess())
    found = credit_columns(credit, rollouts, order, [len(row) for row in columns["responses"]])
    older = [old_logps(model, *row) for row in zip(columns["prompts"], columns["responses"], strict=True)]
    return credit, found | {"old_log_probs": older, **{n: columns[n] for n in ("prompts", "responses")}}, order


def update(
    model: Any, columns: dict[str, list[Tensor]], order: RowOrder, method: Method, processes: Sequence[Sequence[slice]]
) -> Tensor:
    """The gradient of an update: micro-batches of each process added up, processes averaged."""
    n_tokens = sum(float(mask.sum()) for mask in columns["loss_mask"])
    of_update = Update(order.n_rows, n_tokens, len(processes), order.real_share)
    gradients = []
    for micro_batches in processes:
        total = torch.zeros(())
        for part in micro_batches:
            mine = {name: rows[part] for name, rows in columns.items()}
            logps = [forward(model, *row) for row in zip(mine["prompts"], mine["responses"], strict=True)]
            written = without_empty_rows(pad_sequence(logps, batch_first=True), mine)
            found = micro_batch_loss(*written, method, of_update)
            total = total + found.loss
        gradients.append(flat_gradient(total, model))
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("method", METHODS)
def test_credit_and_gradient_are_those_of_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Credit to 1e-6 and gradient to 1e-5: in one micro-batch, in uneven ones over two processes, with padding rows,
    and with a micro-batch of padding alone."""
    trainer, recorded, expected = with_trl(tmp_path, monkeypatch, method)
    model, row = trainer.model, trainer.method
    assert expected.norm() > 1e-4, "nothing to compare"
    layouts: list[tuple[int, list[list[slice]]]] = [
        (0, [[slice(0, 8)]]),
        (0, [[slice(0, 1), slice(1, 4)], [slice(4, 6), slice(6, 8)]]),
        (2, [[slice(0, 3), slice(3, 5)], [slice(5, 9), slice(9, 10)]]),
        (8, [[slice(i, i + 1) for i in range(8)], [slice(8, 11), slice(11, 16)]]),
    ]
    for seed, (n_padding, processes) in enumerate(layouts):
        credit, columns, order = with_verl(recorded, model, trainer.processing_class, row, n_padding, seed)
        by_prompt = sorted(
            range(len(order.slots)), key=lambda i: [c.item() for c in (credit.outcome[i], credit.advantage[i].sum())]
        )
        of_trl = recorded.credit
        by_trl = sorted(
            range(len(of_trl.outcome)), key=lambda i: [c.item() for c in (of_trl.outcome[i], of_trl.advantage[i].sum())]
        )
        for name in ("advantage", "clip_scale", "normalized_gain", "outcome", "valid"):
            ours, theirs = getattr(credit, name)[by_prompt].float(), getattr(of_trl, name)[by_trl].float()
            assert torch.allclose(ours, theirs, atol=1e-6), (name, seed)
        found = update(model, columns, order, row, processes)
        assert (found - expected).norm() / expected.norm() < 1e-5, (method, seed)


def test_a_micro_batch_without_a_token_of_the_policy_adds_nothing() -> None:
    """Its loss is 0 and has a gradient, since a sharded model's backward runs in every process."""
    from a2tgpo.methods import METHODS as TABLE

    logps = torch.zeros(2, 1, requires_grad=True)
    columns = {
        "turn_ids": [torch.tensor([-1])] * 2,
        "advantages": [torch.zeros(1)] * 2,
        "turn_clip_scale": [torch.ones(1)] * 2,
        "old_log_probs": [torch.zeros(1)] * 2,
    }
    for name in METHODS:
        found = micro_batch_loss(logps, columns, TABLE[name], Update(4, 10.0, 2, 0.5))
        assert found.loss.item() == 0 and torch.autograd.grad(found.loss, logps)[0].abs().sum() == 0
