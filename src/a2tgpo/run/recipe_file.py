"""Read recipes from YAML and flags, through TRL's parser; what it would let pass is refused with the nearest key."""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, fields
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.environments.loading import load_module
from a2tgpo.errors import RecipeError, needs_extra
from a2tgpo.processes import launched
from a2tgpo.redact import is_secret, left_out, remember_secrets, secrets_in
from a2tgpo.run.environment_keys import EnvironmentKeys, refuse_other_keys
from a2tgpo.run.recipe import Recipe, RunConfig
from a2tgpo.run.recipe_keys import check_keys


def load_recipe(
    name: str, overrides: Sequence[str] = (), *, without: Collection[str] = (), to_run: bool = True
) -> RunConfig:
    """Parse a recipe with `--field value` overrides, through TRL's parser.

    Args:
        name: path of a YAML file, or the name of a recipe in the package, such as "hops_cpu".
        without: keys that are passed over, in the file and among the flags.
        to_run: refuse a recipe out of which secrets were taken; false where it is only to be compared with another.

    Raises:
        RecipeError: the file is missing or no mapping, or a key or flag is unknown (the message names the nearest),
            or a value is refused.
        MissingExtra: TRL is not installed.
    """
    path = find_recipe(name)
    given = _read(path)
    overrides = import_plugins(given, overrides)
    check_keys([*map(str, given), *flag_keys(overrides)])
    remember_secrets([*secrets_in(given), *_secret_flags(overrides)])
    given = {key: value for key, value in given.items() if key not in without}
    overrides = _without_flags(overrides, without)
    flags = flag_keys(overrides)
    try:
        parser = _parser(_planned(given, overrides), without)
        for action in parser._actions:
            _check_kind(action, given.get(action.dest))
        recipe, training, model = parser.parse_args_and_config(["--config", str(path), *overrides])
        if model.model_name_or_path is None:
            raise RecipeError("model_name_or_path is missing: give a folder, a Hub model, or a2tgpo:hops-tiny")
        values = vars(parser.parse_args(list(overrides)))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe {name!r}: {error}") from error
    refuse_other_keys([*given, *flags], recipe)
    overridden = [flag if flag in values else flag.removeprefix("no_") for flag in flags]
    given |= {key: values[key] for key in overridden}
    # As mappings, in which secrets stand under their names.
    given |= {key: getattr(recipe, key) for key in ("environment_args", "tools", "judge") if key in given}
    if to_run and (missing := [place for place in left_out(given) if not _WORDS & {*place.split(".")}]):
        raise RecipeError(
            f"recipe {name!r}: {', '.join(missing)} held a secret, which was left out of this file; give the secret "
            f"again, with {' and '.join(dict.fromkeys('--' + place.split('.')[0] for place in missing))} or in a copy "
            "of the file, or run the recipe that the run began with"
        )
    return RunConfig(recipe, training, model, given)


_WORDS = {"system_prompt", "instruction", "result_format", "rubric"}
"""Keys of prose, in which `***` is what it looks like."""


def _without_flags(overrides: Sequence[str], keys: Collection[str]) -> list[str]:
    """Return the flags but those of `keys`, with their values."""
    kept, skip = [], False
    for word in overrides:
        if word.startswith("--"):
            skip = flag_keys([word])[0] in keys
        if not skip:
            kept.append(word)
    return kept


def flag_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys that flags name: `learning_rate` of `--learning-rate=1e-4`."""
    return [flag[2:].split("=")[0].replace("-", "_") for flag in overrides if flag.startswith("--")]


def import_plugins(given: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Import the plug-ins of a recipe, of `--plugins A B` and of `--import C`, and return the flags with one list of
    them all.

    Raises:
        RecipeError: a module is not found, or fails.
    """
    named = given.get("plugins") or []
    modules = [named] if isinstance(named, str) else list(named)
    others: list[str] = []
    taking = False
    for flag in overrides:
        name, _, value = flag.partition("=")
        if flag.startswith("--"):
            taking = name in ("--import", "--plugins")
            if taking and value:
                modules.append(value)
        elif taking:
            modules.append(flag)
        if not taking:
            others.append(flag)
    modules = list(dict.fromkeys(map(str, modules)))
    for module in modules:
        try:
            load_module(module)
        except ValueError as error:
            raise RecipeError(f"plugin {error}") from error
    return [*others, "--plugins", *modules] if modules else others


def read_recipe(name: str) -> dict[str, Any]:
    """Return the keys that the recipe `name` gives, unchecked.

    Raises:
        RecipeError: there is no such recipe, or it is no mapping.
    """
    return _read(find_recipe(name))


def _secret_flags(overrides: Sequence[str]) -> Iterator[str]:
    """Yield the values of flags such as `--hub_token X` and `--hub-token=X`, and secrets in those that are mappings."""
    for flag, following in zip(overrides, [*overrides[1:], ""], strict=False):
        name, equals, value = flag.partition("=")
        mapping = value if equals and flag.startswith("--") else flag
        if mapping.lstrip().startswith("{"):
            with suppress(yaml.YAMLError):
                yield from secrets_in(yaml.safe_load(mapping))
        if flag.startswith("--") and is_secret(name[2:].replace("-", "_")):
            yield value if equals else following


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes of the package by name, such as "hops_cpu"."""
    return _packaged("recipes")


def _packaged(kind: str) -> dict[str, Path]:
    inside = Path(str(files("a2tgpo"))) / kind
    # Wheels hold the recipes; in a checkout they stand at its top, where readers look for them.
    folder = inside if inside.is_dir() else Path(__file__).parents[3] / kind
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file `name`, or the package's recipe of that name.

    Raises:
        RecipeError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    packaged = packaged_recipes()
    if name not in packaged:
        raise RecipeError(f"recipe {name!r}: no such file, and none of the package's: {', '.join(packaged)}")
    return packaged[name]


def find_launcher(name: str) -> Path:
    """Return the package's configuration for `accelerate launch --config_file` of that name.

    Raises:
        RecipeError: there is none.
    """
    packaged = _packaged("launch")
    if name not in packaged:
        raise RecipeError(f"launcher {name!r}: there is none of this name, but {', '.join(packaged)}")
    return packaged[name]


def describe_recipes() -> Iterator[str]:
    """Yield a line for every recipe of the package: its name and what its first comment says."""
    yield from _describe_files(packaged_recipes())


def describe_launchers() -> Iterator[str]:
    """Yield a line for every configuration for `accelerate launch`: its name and what its first comment
    says."""
    yield from _describe_files(_packaged("launch"))


def _describe_files(named: Mapping[str, Path]) -> Iterator[str]:
    width = max(map(len, named), default=0) + 2
    for name, path in named.items():
        lines = (line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines())
        first, *others = takewhile(bool, lines)
        comment = " ".join([first, *others])
        # The sentence that the first line ends in; one that ends in ":" leads on to code.
        end = re.compile(r"\.(?= |$)").search(comment, len(first) - 1)
        yield f"{name:<{width}}{comment[: end.end() if end else comment.rfind('.') + 1] or comment}"


def describe_keys() -> str:
    """List every recipe key with its default and meaning, ours first.

    Raises:
        MissingExtra: TRL is not installed.
    """
    with needs_extra("trl", "the list of keys"):
        from trl import ModelConfig

        from a2tgpo.integrations.trl.config import A2TGPOConfig
    ours = A2TGPOConfig.__annotations__
    environment = {f.name for f in fields(EnvironmentKeys)}
    parts = {
        "environment": fields(EnvironmentKeys),
        "task, rollouts, warm start, evaluation": [f for f in fields(Recipe) if f.name not in environment],
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


class _UniqueKeys(yaml.SafeLoader):
    """Refuse a key that stands twice in a mapping, as YAML does; the base class would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"the key {name!r} stands in lines {lines[name]} and {line}; give it once")
            lines[name] = line
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {str(path)!r} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {str(path)!r}: expected `key: value` lines, got {type(content).__name__}")
    return content


def _planned(given: Mapping[str, Any], overrides: Sequence[str]) -> int | None:
    """Return for how many processes a recipe is, None where it does not say."""
    flag = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    flag.add_argument("--processes")
    said = flag.parse_known_args(list(overrides))[0].processes or given.get("processes")
    return int(str(said)) if str(said).isdigit() else None


def _parser(processes: int | None, without: Collection[str] = ()) -> Any:
    """Return TRL's parser, except that a refused value does not print two hundred flags and end the process.

    Args:
        processes: for how many the recipe's batches are counted; None for those that there are.
        without: keys of the file that it passes over.
    """
    with needs_extra("trl", "a recipe"):
        from trl import ModelConfig, TrlParser

        from a2tgpo.integrations.trl.config import A2TGPOConfig

    class Parser(TrlParser):
        def error(self, message: str) -> Any:
            raise RecipeError(message)

        def set_defaults_with_config(self, **given: Any) -> Any:
            return super().set_defaults_with_config(**{k: v for k, v in given.items() if k not in without})

    if processes in (None, launched()):
        return Parser((Recipe, A2TGPOConfig, ModelConfig))

    @dataclass
    class Planned(A2TGPOConfig):
        """Count the batches of processes that are not here: somebody reads the recipe, or starts them."""

        @property
        def world_size(self) -> int:
            assert processes is not None
            return processes

    return Parser((Recipe, Planned, ModelConfig))


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
