"""Options that reproduce the authors' code reach the credit, and change what they name and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from a2tgpo.core import information_gain, normalize_outcome, turn_credit
from a2tgpo.integrations.trl.trainer import A2TGPOTrainer
from a2tgpo.pipeline import BatchCredit
from a2tgpo.rollout.protocol import answer_turn, search_turn
from tests.integrations.parts import record_credit, scripted_trainer

SEARCH, OTHER = search_turn("find it", "Kelo mentor"), search_turn("so", "kelo founder is it next")
SCRIPTS = [
    [SEARCH, OTHER, answer_turn("bora")],
    [OTHER, answer_turn("bora")],
    [SEARCH, SEARCH, SEARCH, answer_turn("mitu")],
    ["no tags"],
    [OTHER, SEARCH, answer_turn("kelo")],
    [answer_turn("bora")],
    [OTHER, OTHER, answer_turn("bora")],
    [SEARCH, answer_turn("kelo")],
]


def credit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> BatchCredit:
    """The credit a trainer with `options` gives the same scripted batch."""
    with monkeypatch.context() as patch:
        recorded = record_credit(patch)
        trainer: A2TGPOTrainer = scripted_trainer(tmp_path, SCRIPTS, **options)
        trainer.model.train()
        trainer._generate_and_score_completions([dict(trainer.train_dataset[i // 4]) for i in range(8)])
    return recorded[0].credit


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchCredit:
    """The paper's credit of the batch."""
    return credit(tmp_path, monkeypatch)


def expected(plain: BatchCredit, **changes: Any) -> Any:
    """The core's credit of the same gains with other numbers."""
    settings: dict[str, Any] = dict(gamma=1.0, alpha=1.0, beta=0.3) | changes
    return turn_credit(
        plain.gain,
        plain.is_process,
        plain.outcome,
        torch.arange(8) // 4,
        n_turns=plain.n_turns,
        **settings,
    )


def test_cut_last_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: BatchCredit) -> None:
    """Only the last search's likelihood of each rollout is read elsewhere, before its result."""
    cut = credit(tmp_path, monkeypatch, cut_last_result=True)
    last = plain.is_process.sum(dim=1)
    column = torch.arange(plain.likelihood.size(1))
    moved = (column == last[:, None]) & (last > 0)[:, None]
    torch.testing.assert_close(cut.likelihood[~moved], plain.likelihood[~moved], atol=1e-6, rtol=1e-4)
    assert (cut.likelihood[moved] != plain.likelihood[moved]).all()
    assert torch.equal(cut.is_process, plain.is_process) and torch.equal(cut.n_turns, plain.n_turns)


def test_log_probability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: BatchCredit) -> None:
    """With `log_probability` the likelihood is the logarithm of the paper's, and gains are differences of those."""
    logs = credit(tmp_path, monkeypatch, likelihood="log_probability")
    exists = torch.cat([torch.ones(8, 1, dtype=torch.bool), plain.is_process], dim=1)
    torch.testing.assert_close(logs.likelihood[exists], plain.likelihood[exists].log(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logs.gain, information_gain(logs.likelihood, logs.is_process))
    assert (logs.likelihood[exists] < 0).all()


def test_best_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: BatchCredit) -> None:
    """With `best` each boundary takes its likeliest alias, so none is below the first alias's."""
    best = credit(tmp_path, monkeypatch, answer_alias="best")
    assert (best.likelihood >= plain.likelihood - 1e-6).all()
    assert (best.likelihood > plain.likelihood + 1e-6).any()


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [("turn_gamma", 0.5, "gamma"), ("gain_alpha", 0.3, "alpha"), ("clip_beta", 0.1, "beta")],
)
def test_numbers_reach_the_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: BatchCredit, option: str, value: float, name: str
) -> None:
    """Discount, weight and width are the core's own parameters of the same meaning."""
    changed = credit(tmp_path, monkeypatch, **{option: value})
    wanted = expected(plain, **{name: value})
    torch.testing.assert_close(changed.advantage, wanted.advantage)
    torch.testing.assert_close(changed.clip_scale, wanted.clip_scale)
    before = torch.cat([plain.advantage, plain.clip_scale])
    assert not torch.allclose(torch.cat([changed.advantage, changed.clip_scale]), before)


def test_the_answer_turn_has_the_outcome_alone(plain: BatchCredit) -> None:
    """In the plain batch, each last turn's advantage is the normalised outcome and its clip scale 1."""
    outcome = normalize_outcome(plain.outcome, torch.arange(8) // 4)
    answered = plain.n_turns > plain.is_process.sum(dim=1)
    last = (plain.n_turns - 1)[:, None]
    torch.testing.assert_close(plain.advantage.gather(1, last)[answered, 0], outcome[answered])
    assert (plain.clip_scale.gather(1, last)[answered] == 1).all()
