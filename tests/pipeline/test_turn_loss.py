"""The loss of a micro-batch: what the KL penalty adds, and what a mean over tokens is divided by."""

from __future__ import annotations

import pytest
import torch

from a2tgpo.methods import METHODS
from a2tgpo.pipeline import LossInputs, turn_loss

REFERENCE = torch.tensor([[-1.5, -1.0, -0.5]])


def inputs(advantage: list[float], tokens: list[int], n_tokens: float = 0.0) -> LossInputs:
    """Rollouts of one turn, of so many of three tokens."""
    ids = torch.tensor([[0] * n + [-1] * (3 - n) for n in tokens])
    return LossInputs(
        turn_ids=ids,
        advantage=torch.tensor(advantage)[:, None].expand(ids.shape),
        clip_scale=torch.ones(ids.shape),
        max_turns=torch.tensor(1),
        n_tokens=torch.tensor(n_tokens),
    )


@pytest.mark.parametrize("corrected", [False, True])
def test_the_penalty_of_one_update_has_the_gradient_of_its_ratio(corrected: bool) -> None:
    """Where the policy that learns is the one that wrote, the bias correction's ratio is 1 but moves with the policy.
    By hand, with r = log π_ref/π: the gradient of k3 is 1 − exp(r), and that of k3 · ratio has k3 beside it."""
    logps = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    loss = turn_loss(
        logps,
        logps.detach(),
        inputs([0.0], [3]),
        METHODS["a2tgpo"],
        ref_logps=REFERENCE,
        kl_beta=0.5,
        kl_bias_correction=corrected,
    ).loss
    (gradient,) = torch.autograd.grad(loss, logps)
    r = REFERENCE - logps.detach()
    k3 = r.exp() - 1 - r
    torch.testing.assert_close(loss.detach(), 0.5 * k3.mean())
    torch.testing.assert_close(gradient, 0.5 * (1 - r.exp() + (k3 if corrected else 0)) / 3)


def test_tokens_are_counted_over_all_processes() -> None:
    """dapo's mean is over tokens: the losses of two processes, whose gradients are averaged, come to that of one
    process with all rollouts; grpo's mean over rollouts needs no such care."""
    advantage, tokens = [1.0, -0.5, 2.0, -1.0], [3, 1, 2, 2]
    generator = torch.Generator().manual_seed(0)
    logps = -torch.rand(4, 3, generator=generator)
    old = logps + 0.1 * torch.randn(4, 3, generator=generator)

    def loss(rows: slice, method: str, processes: int) -> torch.Tensor:
        read = inputs(advantage[rows], tokens[rows], 8.0 / processes)
        return turn_loss(logps[rows], old[rows], read, METHODS[method]).loss

    for method in ("dapo", "grpo"):
        halves = [loss(rows, method, 2) for rows in (slice(0, 2), slice(2, 4))]
        torch.testing.assert_close(torch.stack(halves).mean(), loss(slice(0, 4), method, 1))


def test_what_vllm_drew_otherwise_is_weighted() -> None:
    """An importance, one for each token or one for the rollout, multiplies each token's part of the objective and
    leaves ratio and KL alone. By hand: with A = 1 and ratios of 1 the loss is minus the mean weight."""
    logps = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -2.0, -0.5]], requires_grad=True)
    per_token = torch.tensor([[0.5, 1.0, 3.0], [2.0, 0.0, 9.0]])
    plain, weighted, whole = (
        turn_loss(
            logps,
            logps.detach(),
            inputs([1.0, 1.0], [3, 2]),
            METHODS["a2tgpo"],
            token_weight=weight,
            ref_logps=REFERENCE.expand(2, 3),
            kl_beta=0.5,
        )
        for weight in (None, per_token, per_token[:, :1].expand(2, 3))
    )
    assert (weighted.loss - plain.loss).item() == pytest.approx(1 - (4.5 / 3 + 2.0 / 2) / 2)
    assert (whole.loss - plain.loss).item() == pytest.approx(1 - (0.5 + 2.0) / 2)
    assert weighted.diagnostics.keys() == plain.diagnostics.keys()
    assert all(torch.equal(weighted.diagnostics[name], plain.diagnostics[name]) for name in plain.diagnostics)


def test_the_first_update_is_on_its_own_policy() -> None:
    """Without old log-probabilities every ratio is 1, nothing is clipped and the log-ratio kept for the log is 0."""
    logps = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    update = turn_loss(logps, logps.detach(), inputs([1.5], [3]), METHODS["a2tgpo"])
    assert update.loss.item() == pytest.approx(-1.5)
    assert update.diagnostics["loss/ratio_mean"] == 1
    assert not update.log_ratio.any() and not update.clipped_turns.any()
    assert not update.log_ratio.requires_grad
