"""Name and load the paper's seven benchmarks, from the Hub or from a user's own files."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from a2tgpo.errors import RecipeError

HUB = "RUC-NLPIR/FlashRAG_datasets"
"""FlashRAG's data sets on the Hub; each benchmark is a configuration of it."""

GROUPS: dict[str, dict[str, str]] = {
    "multi-hop": {
        "hotpotqa": "HotpotQA",
        "2wikimultihopqa": "2Wiki",
        "musique": "MuSiQue",
        "bamboogle": "Bamboogle",
    },
    "single-hop": {"nq": "NQ", "triviaqa": "TriviaQA", "popqa": "PopQA"},
}
"""The paper's benchmarks: group -> name -> heading, in the order of its Table 1."""

SPLITS = {
    "hotpotqa": "dev",
    "2wikimultihopqa": "dev",
    "musique": "dev",
    "bamboogle": "test",
    "nq": "test",
    "triviaqa": "test",
    "popqa": "test",
}
"""The split each benchmark is measured on: its test questions, or its dev questions where those have no answers.
Search-R1 and the work after it do the same."""


@dataclass(frozen=True)
class Benchmark:
    """Name questions; `source` is a file, a folder or a Hub data set (`load_questions`)."""

    name: str
    source: str
    split: str


def parse_benchmarks(text: str) -> tuple[Benchmark, ...]:
    """Read `hotpotqa,musique=musique/dev.jsonl`: a name alone comes from the Hub, `name=source` from anywhere.

    Raises:
        RecipeError: a name that is neither known nor given a source, or is given twice.
    """
    found = tuple(_parse(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise RecipeError(f"benchmarks={text!r} names none: give some of {', '.join(SPLITS)}, or NAME=FILE")
    names = [benchmark.name for benchmark in found]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"benchmarks={text!r}: {double!r} is named twice")
    return found


def _parse(part: str) -> Benchmark:
    name, _, source = part.partition("=")
    if not source and name not in SPLITS:
        raise RecipeError(f"benchmark {part!r}: not one of {', '.join(SPLITS)}; give any other as NAME=FILE")
    return Benchmark(name, source or f"{HUB}:{name}", SPLITS.get(name, "test"))


def load_benchmark(
    benchmark: Benchmark, *, n_questions: int | None, only_answerable: bool, seed: int
) -> list[dict[str, Any]]:
    """Load its questions in the source's order, as `load_questions` makes them, all named after the benchmark.

    Args:
        benchmark: which.
        n_questions: keep a random subset of this size, the same for the same `seed`; None, or more than there are,
            keeps all.
        only_answerable: keep the rows whose `answerable_here` is true.
        seed: of the subset.

    Raises:
        DataError: see `load_questions`.
    """
    from a2tgpo.data.formats import load_questions

    where = {"answerable_here": True} if only_answerable else None
    rows = load_questions(benchmark.source, split=benchmark.split, where=where).to_list()
    if n_questions is not None and n_questions < len(rows):
        rows = [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), n_questions))]
    return [row | {"dataset": benchmark.name} for row in rows]


def place(benchmark: str) -> tuple[str, str]:
    """Return its group, "others" for an unknown one, and its name in tables."""
    known = ((group, names[benchmark]) for group, names in GROUPS.items() if benchmark in names)
    return next(known, ("others", benchmark))


def in_order(benchmarks: Collection[str]) -> list[str]:
    """Return benchmarks in the order of `GROUPS`, unknown ones after them by name."""
    known = [name for names in GROUPS.values() for name in names if name in benchmarks]
    return known + sorted(set(benchmarks) - set(known))
