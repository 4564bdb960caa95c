"""Plan the comparison of a recipe, refusing what makes no sense, and begin it in a folder or find it there."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.compare.matrix import REACT, Matrix, Values, as_flags
from a2tgpo.errors import RecipeError
from a2tgpo.files import new_file
from a2tgpo.methods import METHODS
from a2tgpo.redact import secrets_in
from a2tgpo.run.recipe_file import flag_keys, import_plugins, load_recipe, read_recipe

_OURS = {"method": "--methods", "seed": "--seeds", "output_dir": "--output_dir", "resume_from_checkpoint": None}
"""Recipe keys a comparison sets itself, and the flag to use instead."""


_FOLDERS = frozenset({REACT, "warm_start", "pilots"})
"""Names that no method may have here."""


@dataclass(frozen=True)
class Plan:
    """Hold a comparison that could be run; `common` is the recipe of all its runs."""

    matrix: Matrix
    common: dict[str, Any]

    def begin(self) -> None:
        """Write the recipe into the comparison's folder, or find it there.

        Raises:
            RecipeError: the folder holds the comparison of another recipe.
        """
        _begin(self.matrix, self.common)


def plan_matrix(
    recipe: str,
    methods: str | None,
    n_seeds: int,
    root: Path,
    overrides: Sequence[str],
    varied: Sequence[str] = (),
) -> Plan:
    """Plan the comparison of a recipe in `root`; nothing is written.

    Args:
        methods: rows of the methods table by commas, or "all"; None for the recipe's own.
        varied: `KEY=a,b,c` each; runs are made for every combination.

    Raises:
        RecipeError: an unknown method or key, a method whose parts contradict the recipe, fewer than one seed, or a
            flag that a comparison sets itself.
    """
    import_plugins(read_recipe(recipe), overrides)  # they may register methods
    if n_seeds < 1:
        raise RecipeError(f"--seeds {n_seeds}: must be at least 1; 5 give an interval worth reading")
    _refuse_ours(overrides)
    sweeps = [_sweep(text, overrides) for text in varied]
    if repeated := {key for key, _ in sweeps if [key for key, _ in sweeps].count(key) > 1}:
        raise RecipeError(f"--vary: {', '.join(sorted(repeated))} is given twice")
    if methods is None and not sweeps:
        raise RecipeError("nothing is compared: give --methods A,B, or --vary KEY=a,b")
    names = (load_recipe(recipe, overrides).training.method,) if methods is None else _names(methods)
    choices = [[(key, value) for value in values] for key, values in sweeps]
    variations: tuple[Values, ...] = tuple(itertools.product(*choices))
    matrix = Matrix(root, names, n_seeds, 0, variations)
    if len(matrix.arms) < len(names) * len(variations):
        raise RecipeError(f"--vary {' '.join(varied)}: two values have the same folder; write them apart")
    varying = {key for key, _ in sweeps}
    unread = {name: _unread(name) - varying for name in names}
    configs = {
        name: load_recipe(
            recipe, [*overrides, *as_flags(arm.values), "--method", arm.method], without=unread[arm.method]
        )
        for name, arm in matrix.arms.items()
    }
    if any(config.training.max_steps == 0 for config in configs.values()):
        raise RecipeError("max_steps=0: nothing would be trained; give the number of updates of each run")
    ours = {*_OURS, *varying}
    given = {key: value for config in configs.values() for key, value in config.given.items() if key not in ours}
    # What every method takes, such as process_signal: policy, stays in the recipe.
    some = set.union(*unread.values()) & given.keys()
    own = {key for key in some if not (given[key] is None or given[key] is False or given[key] == "policy")}
    matrix = replace(
        matrix,
        max_steps=max(config.training.max_steps for config in configs.values()),
        own_keys={name: _values(given, own - unread[name]) for name in names if own - unread[name]},
    )
    return Plan(matrix, {key: value for key, value in given.items() if key not in own})


def _unread(method: str) -> set[str]:
    """Return the keys that mean nothing to a method: its runs do without, whatever the recipe says for the others."""
    from a2tgpo.integrations.trl.config import unread_options

    names = unread_options(method)
    return names | {"turn_signal", "judge"} if "process_signal" in names else names


def _values(given: Mapping[str, Any], keys: Collection[str]) -> Values:
    return tuple((key, v if isinstance(v := given[key], str) else json.dumps(v)) for key in sorted(keys))


def _sweep(text: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Read `KEY=a,b,c`; commas inside brackets belong to a value."""
    key, equals, listed = text.partition("=")
    key = key.strip().removeprefix("--").replace("-", "_")
    values = [value.strip() for value in re.split(r",(?![^\[]*\])", listed)]
    if not (equals and key) or len(values) < 2 or "" in values:
        raise RecipeError(f"--vary {text!r}: give a recipe key and its values, such as clip_beta=0,.1,.3")
    if len(set(values)) < len(values):
        raise RecipeError(f"--vary {text!r}: a value is given twice")
    _refuse_ours([f"--{key}"])
    if key in flag_keys(overrides):
        raise RecipeError(f"--{key}: --vary sets it for each run; leave it out")
    return key, values


def _names(methods: str) -> tuple[str, ...]:
    names = tuple(METHODS) if methods == "all" else tuple(name.strip() for name in methods.split(","))
    for name in names:
        if name not in METHODS:
            nearest = difflib.get_close_matches(name.lower(), METHODS, n=1, cutoff=0.0)[0]
            raise RecipeError(
                f"--methods: unknown method {name!r}: did you mean {nearest!r}? ReAct, the policy before its updates, "
                "always has a row"
            )
    if taken := sorted(_FOLDERS & set(names)):
        raise RecipeError(f"--methods: {taken[0]!r} is a folder or a row of every comparison; register another name")
    if repeated := {name for name in names if names.count(name) > 1}:
        raise RecipeError(f"--methods: {', '.join(sorted(repeated))} is given twice")
    return names


def _refuse_ours(overrides: Sequence[str]) -> None:
    for key in flag_keys(overrides):
        if key in _OURS:
            instead = f"use {_OURS[key]}" if _OURS[key] else "the same command again goes on by itself"
            raise RecipeError(f"--{key}: a comparison sets it for each run; {instead}")


def _begin(matrix: Matrix, common: dict[str, Any]) -> None:
    if not matrix.recipe.exists():
        matrix.root.mkdir(parents=True, exist_ok=True)
        with new_file(matrix.recipe) as unfinished:
            if secrets_in(common):
                unfinished.touch(mode=0o600)  # the runs read it
            unfinished.write_text(yaml.safe_dump(common, sort_keys=True, allow_unicode=True), encoding="utf-8")
        return
    begun = yaml.safe_load(matrix.recipe.read_text(encoding="utf-8"))
    differing = sorted(key for key in begun | common if begun.get(key) != common.get(key))
    if differing:
        told = ", ".join(f"{key} (there {begun.get(key)!r}, now {common.get(key)!r})" for key in differing)
        raise RecipeError(
            f"--output_dir {str(matrix.root)!r} holds the comparison of another recipe, which differs in {told}: "
            "choose another folder"
        )
