"""List the names a recipe may use without importing TRL, so that a misspelt one is refused in a moment."""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from a2tgpo.errors import RecipeError, needs_extra
from a2tgpo.run.recipe import Recipe

_CLASSES = (
    ("a2tgpo", "integrations/trl/config.py", "A2TGPOConfig"),
    ("trl", "trainer/grpo_config.py", "GRPOConfig"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/model_config.py", "ModelConfig"),
    ("transformers", "training_args.py", "TrainingArguments"),
)
"""Package, file and class of every dataclass whose fields are keys, beside `Recipe`; `A2TGPOConfig` with its bases."""


@functools.cache
def known_keys() -> frozenset[str]:
    """Return the names of all keys, from the classes' source where it is as we know it, and by import otherwise.

    Raises:
        MissingExtra: TRL is not installed.
    """
    ours = {field.name for field in fields(Recipe)} | {"env"}  # `env` is TrlParser's own
    try:
        return frozenset(ours.union(*(_fields_in_source(*place) for place in _CLASSES)))
    except LookupError:
        with needs_extra("trl", "a recipe"):
            from trl import ModelConfig

            from a2tgpo.integrations.trl.config import A2TGPOConfig
        return frozenset(ours | {field.name for part in (A2TGPOConfig, ModelConfig) for field in fields(part)})


def check_keys(keys: Sequence[str]) -> None:
    """Refuse a name that is no key, and name the nearest.

    Raises:
        RecipeError: there is such a name.
    """
    known = known_keys()
    for key in keys:
        if key not in known and key.removeprefix("no_") not in known:
            nearest = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.0)[0]
            raise RecipeError(f"unknown recipe key {key!r}: did you mean {nearest!r}?")


def _fields_in_source(package: str, file: str, name: str) -> Iterator[str]:
    """Yield the names that a dataclass's own body declares.

    Raises:
        LookupError: the package, file or class is not there.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(package)
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise LookupError(str(path))
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield line.target.id
            return
    raise LookupError(f"{path}: {name}")
