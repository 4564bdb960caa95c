"""A recipe: one flat YAML file with everything a run needs, each key also a command-line flag.

Keys are the fields of `Recipe` (data, search, rollouts, warm start, evaluation), `A2TGPOConfig` (training: TRL's own
arguments and ours) and TRL's `ModelConfig` (model, precision, LoRA).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from trl import ModelConfig, TrlParser

from a2tgpo.errors import RecipeError
from a2tgpo.integrations.trl_config import A2TGPOConfig


@dataclass
class Recipe:
    """What is ours in a recipe; `None` data paths mean the generated world."""

    questions: list[str] | None = field(
        default=None, metadata={"help": "Training questions: files, folders or Hub data sets; none = generated."}
    )
    eval_questions: list[str] | None = field(
        default=None, metadata={"help": "Held-out questions, as `questions`; needed where those are given."}
    )
    corpus: str | None = field(
        default=None, metadata={"help": "Passages to search, JSONL or JSONL.gz; needed where questions are given."}
    )
    only_answerable: bool = field(
        default=False, metadata={"help": "Keep only questions whose `answerable_here` is true."}
    )
    n_train_questions: int | None = field(
        default=None, metadata={"help": "Use this many training questions; none = all (4000 of the generated world)."}
    )
    n_eval_questions: int | None = field(
        default=None, metadata={"help": "Evaluate on this many questions; none = all (300 of the generated world)."}
    )
    world_seed: int = field(default=0, metadata={"help": "Seed of the generated world."})
    world_entities: int = field(
        default=600, metadata={"help": "Training entities of the generated world; evaluation has half as many."}
    )
    hops: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "Hop counts of generated questions."})

    passages_per_search: int = field(default=3, metadata={"help": "Passages shown per search."})
    title_weight: int = field(default=1, metadata={"help": "How often BM25 counts a passage's title."})
    search_timeout_s: float = field(default=30.0, metadata={"help": "Seconds before a search counts as failed."})

    max_searches: int = field(default=6, metadata={"help": "Tool calls per rollout."})
    max_prompt_tokens: int = field(default=1024, metadata={"help": "A longer prompt is an error."})
    max_turn_tokens: int = field(default=512, metadata={"help": "Tokens the policy may write per turn."})
    passage_tokens: int = field(default=160, metadata={"help": "Tokens shown of one passage."})
    rows_per_generation: int = field(default=256, metadata={"help": "Rollouts generated together."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message before every question."})

    warm_start_steps: int = field(
        default=0, metadata={"help": "Supervised steps on scripted demonstrations before the updates; 0 = none."}
    )
    warm_start_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the warm start."})
    warm_start_batch_size: int = field(default=32, metadata={"help": "Demonstrations per warm-start step."})
    warm_start_micro_batch_size: int | None = field(
        default=None, metadata={"help": "Demonstrations per forward; none = the whole batch."}
    )
    warm_start_hops: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "Hop counts of generated demonstrations."}
    )
    stops_early: float = field(
        default=0.3, metadata={"help": "Share of demonstrations that answer before the last hop."}
    )
    wrong_hop: float = field(default=0.2, metadata={"help": "Share of demonstrated searches for the wrong hop."})

    eval_batch_size: int = field(default=100, metadata={"help": "Questions answered together in an evaluation."})

    def __post_init__(self) -> None:
        for name in ("questions", "eval_questions"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        given = [name for name in ("questions", "eval_questions", "corpus") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise RecipeError(
                f"{', '.join(given)} given alone: give questions, eval_questions and corpus together, or none of them "
                "for the generated world"
            )


@dataclass(frozen=True)
class RunConfig:
    """A parsed recipe."""

    recipe: Recipe
    training: A2TGPOConfig
    model: ModelConfig
    given: dict[str, Any]

    @property
    def generated_world(self) -> bool:
        return self.recipe.questions is None


def load_recipe(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Parse the recipe at `path` with `--field value` overrides, through TRL's parser.

    Raises:
        RecipeError: the file is missing or no mapping, or a key or flag is unknown (the message names the nearest),
            or a value is refused.
    """
    given = _read(path)
    flags = [flag[2:].split("=")[0].replace("-", "_") for flag in overrides if flag.startswith("--")]
    for key in [*given, *flags]:
        _check_key(key)
    parser = TrlParser((Recipe, A2TGPOConfig, ModelConfig))
    try:
        recipe, training, model = parser.parse_args_and_config(["--config", path, *overrides])
    except ValueError as error:
        raise RecipeError(f"recipe {path!r}: {error}") from error
    return RunConfig(recipe, training, model, given | {"overrides": list(overrides)})


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise RecipeError(f"recipe {path!r}: no such file; the package's recipes are in recipes/")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
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
