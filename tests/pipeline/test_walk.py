"""From rollouts to the loss in the paper's order, through the public dataclasses alone; by hand at the end."""

import math

import pytest
import torch

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import LossInputs, RolloutBatch, SingleProcess, TaskRow, assign_credit, collect_signals, turn_loss


def test_from_rollouts_to_the_loss() -> None:
    """Two rollouts of one prompt search twice; the second's searches find more, and it alone is right."""
    method, tokenizer = METHODS["a2tgpo"], build_tokenizer()
    ids = torch.full((2, 5), 7)
    batch = RolloutBatch.of(
        prompt_ids=torch.full((2, 1), 3),
        prompt_mask=torch.ones(2, 1, dtype=torch.long),
        completion_ids=ids,
        completion_mask=torch.ones_like(ids),
        model_mask=torch.tensor([[True, False, True, False, True]] * 2),  # search, result, search, result, answer
        group_size=2,
        tasks=[TaskRow("q", "Who?", ["bora"])] * 2,
    )
    assert batch.turn_ids.tolist() == [[0, -1, 1, -1, 2]] * 2
    assert batch.boundaries.columns.tolist() == [[1, 3, 5, 1]] * 2  # after the prompt and after each result

    # Eq. 6: the likelihood of the gold answer at each boundary; its rise over a turn is the turn's information gain.
    likelihood = torch.tensor([[0.1, 0.1, 0.2, 0.0], [0.1, 0.3, 0.8, 0.0]])
    signals = collect_signals(batch, method, tokenizer, likelihood=likelihood)
    credit = assign_credit(batch, signals, torch.tensor([0.0, 1.0]), method, SingleProcess())
    assert credit.gain is not None
    assert credit.gain.flatten().tolist() == pytest.approx([0, 0.1, 0, 0.2, 0.5, 0], abs=1e-6)

    # Eqs. 7 to 9: two gains at one depth normalise to −1 and 1; both terms of turn 1 over √2, the one of turn 2 over 1.
    assert credit.normalized_gain.tolist() == [pytest.approx([-1, -1, 0], abs=1e-4), pytest.approx([1, 1, 0], abs=1e-4)]
    assert credit.advantage[1].tolist() == pytest.approx([2 / math.sqrt(2) + 1, 1 + 1, 1], abs=1e-4)
    assert credit.advantage[0].tolist() == pytest.approx([-2 / math.sqrt(2) - 1, -2, -1], abs=1e-4)

    # Eq. 11: informative turns may move further, in both directions of the clip range.
    wide, narrow = 1 + 0.3 * math.tanh(0.5), 1 - 0.3 * math.tanh(0.5)
    assert credit.clip_scale[:, 0].tolist() == pytest.approx([narrow, wide], abs=1e-4)

    # Eqs. 10 and 12: every token has its turn's ratio; the first rollout fell too far, the second rose too far.
    inputs = LossInputs.of(credit.local(SingleProcess()), batch.model_mask)
    old = torch.full((2, 5), -1.0)
    logps = (old + torch.tensor([[-0.1], [0.1]])).requires_grad_()
    found = turn_loss(logps, old, inputs, method)
    low, high = (1 - 3e-3 * narrow, 1 + 4e-3 * wide), (1 - 3e-3, 1 + 4e-3)
    first = sum(a * s for a, s in zip(credit.advantage[0].tolist(), (low[0], low[0], high[0]), strict=True)) / 3
    second = sum(a * s for a, s in zip(credit.advantage[1].tolist(), (low[1], low[1], high[1]), strict=True)) / 3
    assert found.loss.item() == pytest.approx(-(first + second) / 2, abs=1e-5)
    assert found.clipped_turns.all() and torch.autograd.grad(found.loss, logps)[0].abs().max() == 0
