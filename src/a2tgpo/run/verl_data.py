"""Write a recipe's questions and passages as verl reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from a2tgpo.data.formats import load_questions
from a2tgpo.data.world import World
from a2tgpo.errors import RecipeError
from a2tgpo.run.recipe import Recipe


def write_data(given: Mapping[str, Any], folder: Path) -> None:
    """Write train.parquet and val.parquet as verl reads them, and the corpus of a generated world, into `folder`.

    Raises:
        RecipeError: the recipe has an environment other than search.
    """
    known = {f.name for f in fields(Recipe)}
    recipe = Recipe(**{key: value for key, value in given.items() if key in known})
    if recipe.in_environment:
        raise RecipeError("environment, tools: on a cluster a recipe searches; train it with `a2tgpo train`")
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.questions is None:
        world = World.generate(
            recipe.world_seed, recipe.world_entities, recipe.world_entities // 2, recipe.world_correlation
        )
        world.write_corpus(folder / "corpus.jsonl")
        train = world.questions("train", recipe.hops, recipe.n_train_questions or 4000)
        held_out = world.questions("eval", recipe.hops, recipe.n_eval_questions or 300)
    else:
        train = _load(recipe, recipe.questions, "train", recipe.n_train_questions)
        held_out = _load(recipe, recipe.eval_questions or [], "dev", recipe.n_eval_questions)
    write_rows(train, folder / "train.parquet", recipe.instruction)
    write_rows(held_out, folder / "val.parquet", recipe.instruction)


def write_rows(questions: Sequence[Mapping[str, Any]], path: Path, instruction: str | None = None) -> None:
    """Write questions (`id`, `question`, `answer`), asked in an instruction's words, as rows of verl's data sets."""
    words = instruction or "{question}"
    rows = [
        {
            "prompt": [{"role": "user", "content": words.replace("{question}", row["question"])}],
            "data_source": str(row.get("dataset") or "a2tgpo"),
            "reward_model": {"style": "rule", "ground_truth": _aliases(row["answer"])},
            "extra_info": {"index": index, "id": str(row.get("id", index)), "hops": row.get("hops")},
        }
        for index, row in enumerate(questions)
    ]
    Dataset.from_list(rows).to_parquet(str(path))


def _aliases(answer: str | Sequence[str]) -> list[str]:
    return [answer] if isinstance(answer, str) else list(answer)


def _load(recipe: Recipe, sources: Sequence[str], split: str, limit: int | None) -> list[dict[str, Any]]:
    where = {"answerable_here": True} if recipe.only_answerable else None
    found = [row for source in sources for row in load_questions(source, split=split, where=where)]
    return list(Dataset.from_list(found).shuffle(seed=0).select(range(min(limit or len(found), len(found)))))
