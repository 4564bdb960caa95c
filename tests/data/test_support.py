"""Demonstrations of real questions: what is looked up, what is shown, and which questions have one."""

from __future__ import annotations

from typing import Any

import pytest

from a2tgpo.data.demonstrations import demonstrate_support
from a2tgpo.errors import DataError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.demonstration import Demonstration

KELO = Passage("p1", "Kelo Mitu", "The mentor of Kelo Mitu is Bora Tine.")
BORA = Passage("p2", "Bora Tine", "The home of Bora Tine is Sana.")
SANA = Passage("p3", "Sana", "Sana is a town.")
CORPUS = {passage.id: passage for passage in (KELO, BORA, SANA)}


class Search:
    """Finds something other than what supports the answer, or nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, queries: list[str]) -> list[list[Passage]]:
        self.asked.append(list(queries))
        return [{"Bora Tine": [SANA, BORA], "Kelo Mitu": []}[query] for query in queries]


def question(text: str, supporting_ids: list[str]) -> dict[str, Any]:
    """A question with two accepted answers."""
    return {"question": text, "answer": ["Sana", "the town of Sana"], "supporting_ids": supporting_ids}


def test_supporting_titles_are_looked_up_in_order() -> None:
    """A question's searches are the titles of its supporting passages in their order, each shown what the search tool
    returned for it, were it nothing, and its answer is the first one; a question without support has none."""
    search = Search()
    rows = [question("Where does the mentor live?", ["p2", "p1"]), question("Where else?", [])]
    (shown,) = demonstrate_support(rows, CORPUS, search)
    assert isinstance(shown, Demonstration)
    assert (shown.question, shown.answer) == ("Where does the mentor live?", "Sana")
    assert [lookup.query for lookup in shown.lookups] == ["Bora Tine", "Kelo Mitu"]
    assert [lookup.passages for lookup in shown.lookups] == [(SANA, BORA), ()]
    assert all(lookup.query in lookup.thought for lookup in shown.lookups)
    assert search.asked == [["Bora Tine", "Kelo Mitu"]]


def test_support_outside_the_corpus_is_passed_over() -> None:
    """Of the supporting passages those in the corpus are looked up, each title once; a passage without a title has
    nothing to look up, and a question that has no other is left out."""
    rows = [question("Nowhere?", ["gone"]), question("Where?", ["gone", "p1"])]
    (shown,) = demonstrate_support(rows, CORPUS, Search())
    assert shown.question == "Where?" and [lookup.query for lookup in shown.lookups] == ["Kelo Mitu"]
    untitled = CORPUS | {"p4": Passage("p4", " ", "A town."), "p5": Passage("p5", "Kelo Mitu", "Kelo again.")}
    rows = [question("Nowhere?", ["p4"]), question("Where?", ["p1", "p4", "p5"])]
    (shown,) = demonstrate_support(rows, untitled, Search())
    assert [lookup.query for lookup in shown.lookups] == ["Kelo Mitu"]


@pytest.mark.parametrize("supporting_ids", [[], ["gone"]])
def test_nothing_to_demonstrate_is_said(supporting_ids: list[str]) -> None:
    """Questions that name no passage of the corpus cannot be demonstrated, and the message says how to do without."""
    search = Search()
    with pytest.raises(DataError, match=r"no question has supporting_ids.*set warm_start_steps: 0"):
        list(demonstrate_support([question("Where?", supporting_ids)] * 2, CORPUS, search))
    assert not search.asked
