"""What a recipe may not ask of a run, said when it is read."""

from __future__ import annotations

from pathlib import Path

from a2tgpo.run.recipe_file import load_recipe
from tests.run.parts import write_recipe


def test_vllm_s_correction_is_trl_s(tmp_path: Path) -> None:
    """With vLLM a recipe corrects for what the engine drew otherwise, as TRL does, unless it is told not to."""
    path = write_recipe(tmp_path / "recipe.yaml", tmp_path, use_vllm=True)
    assert load_recipe(str(path)).training.vllm_importance_sampling_correction
    off = load_recipe(str(path), ["--vllm_importance_sampling_correction", "false"]).training
    assert off.use_vllm and not off.vllm_importance_sampling_correction
