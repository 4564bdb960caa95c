"""Scripted demonstrations for real questions, from the passages known to support them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from a2tgpo.errors import DataError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import BatchedSearch
from a2tgpo.rollout.demonstration import Demonstration, Lookup


def demonstrate_support(
    questions: Iterable[Mapping[str, Any]], passages: Mapping[str, Passage], search: BatchedSearch
) -> Iterator[Demonstration]:
    """Look up the title of each supporting passage in turn, then give the first answer.

    The results are the search tool's own, so a demonstration shows what a rollout would see, found or not. Questions
    without supporting passages in `passages` are passed over, and so are passages without a title to look up.

    Raises:
        DataError: no question names a supporting passage.
    """
    found = False
    for row in questions:
        support = [passages[key].title for key in row["supporting_ids"] if key in passages]
        titles = list(dict.fromkeys(title for title in support if title.strip()))
        if not titles:
            continue
        found = True
        results = search(titles)
        lookups = tuple(
            Lookup(f"I need to look up {title}.", title, tuple(result))
            for title, result in zip(titles, results, strict=True)
        )
        yield Demonstration(row["question"], lookups, row["answer"][0])
    if not found:
        raise DataError(
            "no question has supporting_ids that are in the corpus, so there is nothing to demonstrate; "
            "set warm_start_steps: 0"
        )
