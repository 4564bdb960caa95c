"""What the trainer stands on of TRL is tried when it is made, and a release that moved something is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer
from trl.trainer import utils

from a2tgpo.errors import MissingExtra
from a2tgpo.integrations.trl import policy_model
from a2tgpo.integrations.trl.policy_model import generating
from a2tgpo.integrations.trl.trl_contract import WORKS, check_trl
from tests.integrations.parts import scripted_trainer


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """The check runs once in a process; here in each test, and after it with TRL as it is."""
    check_trl.cache_clear()
    yield
    check_trl.cache_clear()


def test_the_installed_trl_is_one_of_them() -> None:
    """Nothing of it has moved, and asking draws no random number."""
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    check_trl()
    assert torch.equal(torch.random.get_rng_state(), before)


def unordered(rows: Any, **options: Any) -> Iterator[int]:
    """A sampler that goes through all prompts before it repeats one."""
    return iter([*rows] * options["mini_repeat_count"])


@pytest.mark.parametrize(
    ("place", "name", "value", "said"),
    [
        (
            GRPOTrainer,
            "_calculate_rewards",
            lambda self, batch: None,
            "_calculate_rewards takes (batch) and not (inputs",
        ),
        (GRPOTrainer, "_compute_loss", None, "GRPOTrainer._compute_loss is gone"),
        (utils, "RepeatSampler", unordered, "no longer puts a prompt's rollouts side by side"),
        (utils, "RepeatSampler", lambda rows: rows, "its sampler cannot be made"),
    ],
)
def test_what_moved_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, value: Any, said: str
) -> None:
    """A TRL that differs is refused when a trainer is made, with what moved and one that works."""
    with monkeypatch.context() as changed:
        changed.setattr(place, name, value)
        with pytest.raises(MissingExtra) as caught:
            scripted_trainer(tmp_path, [["x"]])
    assert said in str(caught.value) and WORKS in str(caught.value)


def test_generation_with_and_without_checkpointing_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL 1.16 takes the arguments of gradient checkpointing, 1.15 does not: either opens the model."""
    trainer = scripted_trainer(tmp_path, [["x"]])
    unwrap = policy_model.unwrap_model_for_generation

    def older(
        model: Any, accelerator: Any, gather_deepspeed3_params: bool = True, generation_kwargs: Any = None
    ) -> Any:
        return unwrap(model, accelerator, gather_deepspeed3_params, generation_kwargs)

    monkeypatch.setattr(policy_model, "unwrap_model_for_generation", older)
    with generating(trainer) as model:
        assert model is trainer.model
