"""What a recipe may not ask of a run, said when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2tgpo.errors import RecipeError
from a2tgpo.recipe_file import load_recipe
from tests.run.parts import write_recipe


def test_vllm_s_correction_is_refused_and_its_remedy_works(tmp_path: Path) -> None:
    """TRL's default with vLLM weighs tokens, which would change the turn ratio: it is refused by name, and with the
    remedy in the message the recipe loads. Without vLLM the default means nothing and stays."""
    path = write_recipe(tmp_path / "recipe.yaml", tmp_path, use_vllm=True)
    remedy = r"vllm_importance_sampling_correction=True.*set vllm_importance_sampling_correction=False"
    with pytest.raises(RecipeError, match=remedy):
        load_recipe(str(path))
    assert load_recipe(str(path), ["--vllm_importance_sampling_correction", "false"]).training.use_vllm
    assert load_recipe(str(path), ["--use_vllm", "false"]).training.vllm_importance_sampling_correction
