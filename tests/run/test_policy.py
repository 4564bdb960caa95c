"""A policy is loaded as its recipe says: which revision, in which precision, with which attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.recipe_policy import load_model, load_tokenizer
from tests.run.parts import save_policy, write_recipe


def calls(monkeypatch: pytest.MonkeyPatch, loader: Any) -> list[tuple[str, dict[str, Any]]]:
    """What `loader.from_pretrained`, which goes on working, is asked for from now on."""
    made: list[tuple[str, dict[str, Any]]] = []
    load = loader.from_pretrained

    def remember(name: str, **options: Any) -> Any:
        made.append((name, options))
        return load(name, **options)

    monkeypatch.setattr(loader, "from_pretrained", remember)
    return made


def test_a_model_is_loaded_as_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precision and attention are those of every model of the run; the revision goes to the model that the recipe names
    and to no other, such as the one that a warm start saved."""
    named, saved = (str(save_policy(tmp_path / name)) for name in ("named", "saved"))
    changes = {"model_revision": "v2", "attn_implementation": "eager", "dtype": "bfloat16"}
    config = load_recipe(str(write_recipe(tmp_path / "recipe.yaml", tmp_path / "named", **changes)))
    made = calls(monkeypatch, AutoModelForCausalLM)
    for model in (load_model(named, config), load_model(saved, config)):
        assert model.config._attn_implementation == "eager"
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert [name for name, _ in made] == [named, saved]
    assert made[0][1]["revision"] == "v2" and made[1][1].get("revision") is None

    made = calls(monkeypatch, AutoTokenizer)
    assert [load_tokenizer(name, config).padding_side for name in (named, saved)] == ["left", "left"]
    assert [(name, options.get("revision")) for name, options in made] == [(named, "v2"), (saved, None)]


def test_a_model_is_loaded_in_full_precision_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights saved in half precision are trained in 32 bits unless the recipe says otherwise, and the attention is
    left to the model."""
    policy = save_policy(tmp_path / "policy")
    AutoModelForCausalLM.from_pretrained(policy, dtype=torch.bfloat16).save_pretrained(policy)
    config = load_recipe(str(write_recipe(tmp_path / "recipe.yaml", policy)))
    made = calls(monkeypatch, AutoModelForCausalLM)
    assert {weight.dtype for weight in load_model(str(policy), config).parameters()} == {torch.float32}
    assert "attn_implementation" not in made[0][1]
