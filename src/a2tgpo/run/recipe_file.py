"""Recipes from YAML and flags, through TRL's parser; what it would let pass is refused with the nearest key."""

from __future__ import annotations

import difflib
from argparse import Action
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import ModelConfig, TrlParser

from a2tgpo.errors import RecipeError
from a2tgpo.integrations.trl.config import A2TGPOConfig
from a2tgpo.run.recipe import Recipe, RunConfig


def load_recipe(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Parse the recipe at `path` with `--field value` overrides, through TRL's parser.

    Raises:
        RecipeError: the file is missing or no mapping, or a key or flag is unknown (the message names the nearest),
            or a value is refused.
    """
    given = _read(path)
    flags = [flag[2:].split("=")[0].replace("-", "_") for flag in overrides if flag.startswith("--")]
    for key in [*given, *flags]:
        _check_key(str(key))
    parser = _Parser((Recipe, A2TGPOConfig, ModelConfig))
    try:
        for action in parser._actions:
            _check_kind(action, given.get(action.dest))
        recipe, training, model = parser.parse_args_and_config(["--config", path, *overrides])
        if model.model_name_or_path is None:
            raise RecipeError("model_name_or_path is missing: give a folder, a Hub model, or a2tgpo:hops-tiny")
        values = vars(parser.parse_args(list(overrides)))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe {path!r}: {error}") from error
    overridden = [flag if flag in values else flag.removeprefix("no_") for flag in flags]
    return RunConfig(recipe, training, model, given | {key: values[key] for key in overridden})


class _Parser(TrlParser):
    """TRL's parser, except that a refused value does not print two hundred flags and end the process."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(message)


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise RecipeError(f"recipe {path!r}: no such file; the package's recipes are in recipes/")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path!r} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {path!r}: expected `key: value` lines, got {type(content).__name__}")
    return content


def _check_key(key: str) -> None:
    known = {f.name for part in (Recipe, A2TGPOConfig, ModelConfig) for f in fields(part)} | {"env"}
    if key in known or key.removeprefix("no_") in known:
        return
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
    raise RecipeError(f"unknown recipe key {key!r}: did you mean {nearest!r}?")


_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "string_to_bool": ("true or false", (bool,)),
}
"""Name of an argument's converter -> what it makes, and the kinds of YAML value that are that already."""


def _check_kind(action: Action, value: Any) -> None:
    """Refuse a YAML value of the wrong kind: the parser converts and checks nothing but text."""
    converter = getattr(action.type, "__name__", "")
    if converter not in _KINDS or value is None or isinstance(value, str):
        return
    expected, kinds = _KINDS[converter]
    values = value if action.nargs == "+" and isinstance(value, list) else [value]
    if not all(type(item) in kinds for item in values):
        raise RecipeError(f"{action.dest}={value!r}: expected {expected}")


def describe_keys() -> str:
    """Every recipe key with its default and meaning, ours first."""
    ours = A2TGPOConfig.__annotations__
    parts = {
        "task, rollouts, warm start, evaluation": fields(Recipe),
        "per-turn credit": [f for f in fields(A2TGPOConfig) if f.name in ours],
        "training (TRL's GRPOConfig)": [f for f in fields(A2TGPOConfig) if f.name not in ours and f.init],
        "model (TRL's ModelConfig)": fields(ModelConfig),
    }
    return "\n\n".join("\n".join([f"# {title}", *map(_describe, part)]) for title, part in parts.items())


def _describe(key: Field[Any]) -> str:
    default = key.default_factory() if key.default_factory is not MISSING else key.default
    meaning = " ".join(str(key.metadata.get("help", "")).split())
    shown = repr(default) if isinstance(default, str) and default != default.strip() else default
    return f"{key.name}: {shown}".ljust(36) + f"  {meaning}"
