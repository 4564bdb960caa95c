"""A run that could make no update is refused before its warm start, with the number of questions it needs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from a2tgpo.cli import main
from a2tgpo.errors import DataError
from a2tgpo.integrations.trl.checks import check_batch_size
from tests.run.parts import save_policy, write_recipe


def refused(n_prompts: int, args: Any) -> bool:
    """Whether the check refuses so many prompts."""
    try:
        check_batch_size(n_prompts, args)
    except DataError:
        return True
    return False


@given(n=st.integers(1, 40), prompts=st.integers(1, 12), group=st.integers(2, 8), updates=st.integers(1, 4))
def test_refused_exactly_where_trl_draws_nothing(n: int, prompts: int, group: int, updates: int) -> None:
    """TRL's own sampler, made as its trainer makes it, draws no batch exactly where the check refuses."""
    args = SimpleNamespace(generation_batch_size=prompts * group, num_generations=group)
    sampler = RepeatSampler(range(n), mini_repeat_count=group, batch_size=prompts, repeat_count=updates, seed=0)
    assert refused(n, args) == (not list(sampler))


@pytest.mark.parametrize("few", [{"n_train_questions": 3}, {"n_train_questions": 1, "hops": [1]}])
def test_train_says_how_many_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str], few: dict[str, Any]) -> None:
    """Exit 2, one line with the number there is and the number needed, and neither a warm start nor a configuration."""
    sizes = {"num_generations": 4, "per_device_train_batch_size": 16, "steps_per_generation": 1}
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), **sizes, **few)
    capsys.readouterr()
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{few['n_train_questions']} training prompts, and a batch takes 4" in error
    assert not (tmp_path / "run" / "warm_start").exists() and not (tmp_path / "run" / "config.yaml").exists()
