"""What a recipe may not ask of a run, said when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from a2tgpo.errors import RecipeError
from a2tgpo.run.recipe_file import load_recipe
from tests.run.parts import write_recipe


def test_vllm_s_correction_is_trl_s(tmp_path: Path) -> None:
    """With vLLM a recipe corrects for what the engine drew otherwise, as TRL does, unless it is told not to."""
    path = write_recipe(tmp_path / "recipe.yaml", tmp_path, use_vllm=True)
    assert load_recipe(str(path)).training.vllm_importance_sampling_correction
    off = load_recipe(str(path), ["--vllm_importance_sampling_correction", "false"]).training
    assert off.use_vllm and not off.vllm_importance_sampling_correction


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("stops_early", 1.5, "must be from 0 to 1"),
        ("wrong_hop", -0.1, "must be from 0 to 1"),
        ("world_correlation", float("nan"), "must be from 0 to 1"),
        ("search_timeout_s", 0.0, "must be above 0"),
        ("warm_start_learning_rate", float("inf"), "must be 0 or more"),
        ("warm_start_learning_rate", -1e-3, "must be 0 or more"),
        ("hops", [], "give one or more hop counts, from 1"),
        ("hops", [2, 0], "give one or more hop counts, from 1"),
        ("warm_start_hops", [], "give one or more hop counts, from 1"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, key: str, value: Any, rule: str) -> None:
    """They are refused when the recipe is read, and not when a run comes to use them."""
    path = write_recipe(tmp_path / "recipe.yaml", tmp_path, **{key: value})
    with pytest.raises(RecipeError, match=rf"{key}=.*: {rule}"):
        load_recipe(str(path))


def test_a_key_stands_once(tmp_path: Path) -> None:
    """YAML would keep the last of two values; a reader sees the first."""
    path = write_recipe(tmp_path / "recipe.yaml", tmp_path)
    n_lines = len(path.read_text().splitlines())
    path.write_text(path.read_text() + "beta: 0.1\nbeta: 0.2\n")
    twice = rf"the key 'beta' stands in lines {n_lines + 1} and {n_lines + 2}; give it once"
    with pytest.raises(RecipeError, match=twice):
        load_recipe(str(path))
