"""TRL's correction for what vLLM drew otherwise than the policy, on rollouts that say how likely each token was.

The engine itself is a stand-in that takes weights; `tests/rollout/test_vllm_engine.py` has the real one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from a2tgpo import A2TGPOTrainer
from tests.integrations.parts import config, scripted_trainer
from tests.integrations.test_trl_trainer import SCRIPTS, logps_of, one_batch


def corrected(tmp_path: Path, **changes: Any) -> A2TGPOTrainer:
    """A trainer that believes its scripted rollouts to come from vLLM."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, vllm_importance_sampling_mode="token_truncate", **changes)
    trainer.use_vllm, trainer.vllm_generation = True, SimpleNamespace(sync_weights=lambda: None)
    trainer._last_loaded_step = -1
    return trainer


def tell(trainer: A2TGPOTrainer, logp: float) -> None:
    """Let rollouts say that each token was drawn with this log-probability."""
    scripted = trainer.rollout_func

    def telling(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        columns = scripted(prompts, trainer)
        return columns | {"logprobs": [[logp] * len(ids) for ids in columns["completion_ids"]]}

    trainer.rollout_func = telling


@pytest.mark.parametrize("iterations", [1, 2])
def test_importance_is_the_policys_probability_against_the_engines(tmp_path: Path, iterations: int) -> None:
    """It comes from one pass of ours, which TRL asks for even with one update a batch; there the ratio to oneself stays
    exactly 1, since old log-probabilities are not handed on to the loss."""
    trainer = corrected(tmp_path, num_iterations=iterations)
    tell(trainer, -6.0)
    batch = one_batch(trainer)
    written = batch["turn_ids"] >= 0
    expected = (logps_of(trainer, batch) + 6.0).exp().clamp(max=3.0)
    torch.testing.assert_close(batch["importance_sampling_ratio"][written], expected[written], atol=1e-4, rtol=1e-4)
    assert expected[written].std() > 0.05
    assert ("old_per_token_logps" in batch) == (iterations == 2)
    trainer._compute_loss(trainer.model, batch)
    (ratio,) = trainer._metrics["train"]["loss/ratio_mean"]
    assert ratio == pytest.approx(1.0, abs=1e-6) if iterations == 2 else ratio == 1.0


def test_each_token_teaches_by_its_importance(tmp_path: Path) -> None:
    """An engine that drew every token twice as readily halves the gradient; one that nobody asked changes nothing."""

    def gradient(where: str, offset: float | None) -> torch.Tensor:
        trainer = scripted_trainer(tmp_path / where, SCRIPTS) if offset is None else corrected(tmp_path / where)
        if offset is not None:
            tell(trainer, 0.0)
        batch = one_batch(trainer)
        if offset is not None:
            batch["importance_sampling_ratio"] = torch.full_like(logps_of(trainer, batch), offset)
        trainer.model.zero_grad()
        trainer._compute_loss(trainer.model, batch).backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])

    plain = gradient("plain", None)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(gradient("same", 1.0), plain, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(gradient("half", 0.5), 0.5 * plain, atol=1e-7, rtol=1e-4)


def test_rollouts_that_do_not_tell_are_refused_and_the_remedy_works(tmp_path: Path) -> None:
    """`logprobs=None` ends the first batch with both ways out; switched off, nothing is asked and nothing corrected."""
    with pytest.raises(ValueError, match=r"logprobs=None.*vllm_importance_sampling_correction=False"):
        one_batch(corrected(tmp_path / "on"))
    batch = one_batch(corrected(tmp_path / "off", vllm_importance_sampling_correction=False))
    assert "importance_sampling_ratio" not in batch


@pytest.mark.parametrize("method", ["tree-grpo", "aepo"])
def test_one_weight_per_rollout_is_refused_where_turns_are_shared(tmp_path: Path, method: str) -> None:
    """TRL's default mode would weigh a shared turn by one of its rollouts; by token the weights agree."""
    shared = {"method": method, "use_vllm": True, "vllm_mode": "colocate", "num_generations": 8}
    with pytest.raises(ValueError, match=r"sequence_mask.*set vllm_importance_sampling_mode='token_truncate'"):
        config(tmp_path, **shared)
    assert config(tmp_path, vllm_importance_sampling_mode="token_truncate", **shared).use_vllm
