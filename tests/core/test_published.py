"""Every published row against what its authors' functions return (tests/core/golden, float32 inside some of them)."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from a2tgpo import core
from a2tgpo.methods import METHODS, Method, resolve_method

from .batches import padded

CASES = json.loads(gzip.decompress((Path(__file__).parent / "golden" / "methods_published.json.gz").read_bytes()))[
    "cases"
]
ALL_GAINS = replace(METHODS["a2tgpo-release"], credit=replace(METHODS["a2tgpo-release"].credit, first_gain=True))
"""The golden numbers are of the function that is given gains, the first one included."""


def turns_of(case) -> core.TurnBatch:
    width = max(case["n_turns"])
    n_turns = torch.tensor(case["n_turns"])
    return core.TurnBatch(
        gain=padded(case["gain"], width),
        is_process=torch.arange(width) < n_turns[:, None] - 1,
        outcome=torch.tensor(case["outcome"], dtype=torch.float64),
        group=torch.tensor(case["group"]),
        n_turns=n_turns,
        state=padded(case["state"], width, fill=-1, dtype=torch.long),
        tree=torch.tensor(case["tree"]),
    )


def published(table):
    """Parametrise a test by each row of a table, with each case for which its authors' code was run.

    IGPO's code, and the loss of the release, were not run on gains of 0, which they drop.
    """
    rows = [
        pytest.param(case, row, case["published"][name][key], id=f"{label}-{case['seed']}")
        for label, (row, name, key) in table.items()
        for case in CASES
        if key in case["published"].get(name, {})
    ]
    return pytest.mark.parametrize("case, row, golden", rows)


CREDITS = {
    **{name: (METHODS[name], "grpo", "advantage") for name in ("grpo", "dapo", "gspo")},
    "gigpo": (METHODS["gigpo"], "gigpo", "mean_std_norm"),
    "gigpo, mean_norm": (resolve_method("gigpo", norm="mean"), "gigpo", "mean_norm"),
    "igpo": (METHODS["igpo"], "igpo", "joint"),
    "igpo, separate": (resolve_method("igpo", norm="separate"), "igpo", "separate"),
    "tree-grpo": (METHODS["tree-grpo"], "tree-grpo", "advantage"),
}


@published(CREDITS)
def test_credit(case, row: Method, golden):
    """Advantages are the published ones, in every turn and, where one value is published, on every turn alike."""
    batch = turns_of(case)
    expected = torch.tensor(golden, dtype=torch.float64)
    if expected.dim() == 1:
        expected = torch.where(batch.learned, expected[:, None], 0)
    torch.testing.assert_close(row.credit(batch).advantage, expected, rtol=0, atol=2e-6)


def loss_of(case, row: Method, credit: core.TurnCredit):
    logp = torch.tensor(case["logp"], dtype=torch.float64, requires_grad=True)
    turns = core.turn_ids(torch.tensor(case["model_mask"], dtype=torch.bool))
    old_logp = torch.tensor(case["old_logp"], dtype=torch.float64)
    loss = core.policy_loss(logp, old_logp, turns, credit.advantage, credit.clip_scale, **row.loss_options).loss
    return loss.item(), torch.autograd.grad(loss, logp)[0]


def plain(row: Method) -> Method:
    """The row with the outcome alone, as the golden losses of aepo have it."""
    return replace(row, credit=METHODS["grpo"].credit)


LOSSES = {
    "grpo": (METHODS["grpo"], "grpo", "rollout_mean_clip_0.2"),
    "grpo, token mean": (resolve_method("grpo", aggregate="token"), "grpo", "token_mean_clip_0.2"),
    "dapo": (METHODS["dapo"], "dapo", "token_mean_clip_0.2_0.28"),
    "gspo": (METHODS["gspo"], "gspo", "rollout_mean"),
    "aepo": (plain(METHODS["aepo"]), "aepo", "clip_token_mean"),
    "a2tgpo-release": (ALL_GAINS, "a2tgpo-release", "loss_token_mean"),
}


@published(LOSSES)
def test_loss_and_gradient(case, row: Method, golden):
    """On the row's own credit, loss and gradient of the row's ratio, clip and aggregation are the published ones."""
    loss, gradient = loss_of(case, row, row.credit(turns_of(case)))
    assert loss == pytest.approx(golden["loss"], abs=5e-8)
    torch.testing.assert_close(gradient, torch.tensor(golden["grad"], dtype=torch.float64), rtol=0, atol=5e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["seed"]))
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_release(case, alpha):
    """Every token has the advantage and clip scale of the authors' code, zero gains (cases 1 and 3) included."""
    golden = case["published"]["a2tgpo-release"][f"alpha_{alpha}"]
    credit = replace(ALL_GAINS.credit, alpha=alpha)(turns_of(case))
    turns = core.turn_ids(torch.tensor(case["model_mask"], dtype=torch.bool))
    for ours, key in ((credit.advantage, "advantage_token"), (credit.clip_scale, "clip_scale_token")):
        actual = torch.where(turns >= 0, ours.gather(1, turns.clamp(min=0)), 0)
        torch.testing.assert_close(actual, torch.tensor(golden[key], dtype=torch.float64), rtol=0, atol=1e-9)


def release(gains, **options):
    width = max(map(len, gains)) + 1
    n_turns = torch.tensor([len(row) + 1 for row in gains])
    batch = core.TurnBatch(
        gain=padded(gains, width),
        is_process=torch.arange(width) < n_turns[:, None] - 1,
        outcome=torch.ones(len(gains), dtype=torch.float64),
        group=torch.zeros(len(gains), dtype=torch.long),
        n_turns=n_turns,
    )
    return core.ReleaseCredit(alpha=1.0, **options)(batch)


def test_release_by_hand():
    """A gain of 0 moves later gains to an earlier group and its turn to the next gain; without the first gain the
    first turn has the second's clip scale; 1e-8 under the root makes small spreads small."""
    moved = release([[0, 0.3], [0.1, 0.5], [0.2, 0.4]], first_gain=True)
    assert moved.advantage[0].tolist() == pytest.approx([1.2247, 1.2247, 0], abs=2e-4)
    assert moved.clip_scale[0].tolist() == pytest.approx([1.1637, 1.1637, 1], abs=1e-4)
    skipped = release([[0.7, 0.3], [0.1, 0.5]])
    assert skipped.clip_scale.flatten().tolist() == pytest.approx([0.8614, 0.8614, 1, 1.1386, 1.1386, 1], abs=1e-4)
    behind = release([[0.2, 0], [0.1, 0.5]], first_gain=True)
    assert behind.advantage[0, 1:].tolist() == [0, 0] and behind.clip_scale[0, 1:].tolist() == [1, 1]
    narrow = [[0.5], [0.50001], [0.50002]]
    assert release(narrow, first_gain=True).advantage[2, 0].item() == pytest.approx(0.0987, abs=1e-4)
    paper = core.normalize_turn_groups(padded(narrow, 1), torch.ones(3, 1).bool(), torch.zeros(3).long())
    assert paper[2, 0].item() == pytest.approx(1.09, abs=5e-3)
