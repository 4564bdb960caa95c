"""Make verl's command of a recipe, print it and run it: `a2tgpo verl`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError, needs_extra

if TYPE_CHECKING:
    from rich.console import Console


_EXTERNAL = "VERL_USE_EXTERNAL_MODULES"
"""Variable that names modules which every process of verl's imports first."""


def add_verl_command(commands: Any) -> None:
    """Add `verl` to the subcommands of `a2tgpo`."""
    text = "train a recipe on a Ray cluster with verl"
    command = commands.add_parser("verl", help=text, description=text, allow_abbrev=False)
    command.usage = "a2tgpo verl RECIPE [--key value ...] [verl.key=value ...]"
    command.epilog = "Recipe keys come first; verl's own options, such as trainer.test_freq=10, override what is made."
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name that `a2tgpo recipes` lists")
    command.add_argument("--nodes", type=int, default=1, help="nodes of the cluster")
    command.add_argument("--devices", type=int, default=None, help="devices per node; default: those of this machine")
    command.add_argument("--dry_run", action="store_true", help="write the data and print the command, no more")
    command.set_defaults(run=_run)


def _run(arguments: Any, overrides: Sequence[str], console: Console) -> int:
    from a2tgpo.run.recipe_file import import_plugins
    from a2tgpo.run.verl_data import write_data
    from a2tgpo.run.verl_overrides import DEFAULTS, verl_overrides

    given, verls = read_overrides(arguments.recipe, overrides)
    import_plugins(given, [])
    plugins = _external_modules(given.get("plugins"))
    folder = Path(given.get("output_dir") or DEFAULTS["output_dir"]).absolute() / "verl_data"
    n_devices = arguments.devices or _devices()
    made = verl_overrides(given, folder, n_nodes=arguments.nodes, n_devices=n_devices)
    write_data(given, folder)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *made, *verls]
    shown = shlex.join([*(f"{name}={value}" for name, value in plugins.items()), *command])
    console.print(shown.replace(" ", " \\\n  ", 2), soft_wrap=True, highlight=False, markup=False)
    if arguments.dry_run:
        return 0
    _check_plugin()
    return subprocess.run(command, check=False, env=os.environ | plugins).returncode


def _external_modules(given: Any) -> dict[str, str]:
    """Return the environment in which every process of verl's on this machine imports a recipe's plug-ins."""
    named = [given] if isinstance(given, str) else list(given or [])
    already = os.environ.get(_EXTERNAL)
    return {_EXTERNAL: ",".join([*([already] if already else []), *named])} if named else {}


def _check_plugin() -> None:
    """Check that verl finds the trainer, since it keeps to itself what goes wrong with a plug-in.

    Raises:
        MissingExtra: verl is not installed.
        RecipeError: it is, and has not loaded this package's entry point.
    """
    with needs_extra("verl", "a2tgpo verl"):
        import transfer_queue  # noqa: F401
        from verl.trainer.ppo.v1 import get_trainer_cls
    try:
        get_trainer_cls("a2tgpo")
    except (KeyError, ValueError, NotImplementedError) as error:
        raise RecipeError(
            "trainer.v1.trainer_mode=a2tgpo is unknown to verl: it has not loaded the entry point of this package "
            "(group verl.plugins); install a2tgpo into verl's environment with pip, see what is printed above, and "
            "leave VERL_USE_EXTERNAL_PLUGINS unset"
        ) from error


def read_overrides(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a recipe with `--key value` of the command line, and what is meant for verl itself.

    Raises:
        RecipeError: the recipe cannot be read, or a flag has no value.
    """
    import yaml

    from a2tgpo.run.recipe_file import find_recipe

    path = find_recipe(name)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {str(path)!r}: expected `key: value` lines, got {type(content).__name__}")
    given: dict[str, Any] = {str(key): value for key, value in content.items()}
    verls, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if "=" not in word:
                raise RecipeError(f"{word!r}: expected --key value of the recipe, or verl's own key=value")
            verls.append(word)
            continue
        key, separator, value = word[2:].partition("=")
        if not separator:
            if not rest:
                raise RecipeError(f"--{key} has no value")
            value = rest.pop(0)
        given[key] = yaml.safe_load(value)
    return given, verls


def _devices() -> int:
    import torch

    return max(1, torch.accelerator.device_count())
