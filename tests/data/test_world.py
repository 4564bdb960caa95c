"""The generated world: reproducible, honest questions, nothing shared between training and evaluation."""

from __future__ import annotations

import json
import random

import pytest

from a2tgpo.data import names
from a2tgpo.data.world import RELATIONS, World
from a2tgpo.errors import DataError
from a2tgpo.retrieval.bm25 import BM25Retriever
from a2tgpo.retrieval.corpus import read_corpus

_WORLD = World.generate(seed=3, n_train=120, n_eval=60)
_HOPS = (1, 2, 3, 4)


def _rows(split: str) -> list[dict]:
    return _WORLD.questions(split, _HOPS, n=80, seed=5)


def _words(split: str) -> set[str]:
    kinds = {"Guild", "Union", "League", "Works"}
    return {word for e in _WORLD.entities if e.split == split for word in e.name.split()} - kinds


def _answer_by_reading(question: str) -> tuple[str, list[str]]:
    """The answer and the passages on the way, from the question's and the passages' words alone."""
    path, start = question.removesuffix("?").split(" is ", 1)[1].rsplit(" of ", 1)
    by_title = {passage.title: passage for passage in _WORLD.passages}
    read = []
    for relation in reversed(path.split(" of ")):
        sentence = f"{relation[0].upper()}{relation[1:]} of {start} is "
        passage = by_title[start]
        read.append(passage.id)
        start = passage.text.split(sentence, 1)[1].split(".", 1)[0]
    return start, read


def test_the_seed_decides_everything() -> None:
    """Two worlds of one seed agree in every passage and question; another seed changes them."""
    again, other = World.generate(3, 120, 60), World.generate(4, 120, 60)
    assert again.passages == _WORLD.passages
    assert again.questions("eval", _HOPS, 80, seed=5) == _rows("eval")
    assert other.passages != _WORLD.passages
    assert _WORLD.questions("eval", _HOPS, 80, seed=6) != _rows("eval")


def test_the_global_random_state_is_left_alone() -> None:
    """Generating data neither reads nor advances Python's global generator."""
    before = random.getstate()
    World.generate(0, 40, 20).questions("train", n=5)
    assert random.getstate() == before


def test_no_name_is_shared() -> None:
    """Titles are unique and no invented word occurs in two names, so none in both splits."""
    words = [word for split in ("train", "eval") for word in _words(split)]
    assert len({passage.title for passage in _WORLD.passages}) == len(_WORLD.entities) == 180
    assert len(words) == len(set(words))
    assert not _words("train") & _words("eval")


def test_relations_are_typed_and_stay_in_the_split() -> None:
    """Every entity has exactly the relations of its kind, each to another entity of the right kind and its split."""
    for entity in _WORLD.entities:
        assert set(entity.facts) == set(RELATIONS[entity.kind])
        for relation, target in entity.facts.items():
            assert _WORLD[target].kind == RELATIONS[entity.kind][relation]
            assert _WORLD[target].split == entity.split
            assert target != entity.id


@pytest.mark.parametrize("split", ["train", "eval"])
def test_answers_follow_from_reading_the_passages(split: str) -> None:
    """A reader with nothing but titles and sentences reaches each answer through exactly the supporting passages."""
    rows = _rows(split)
    assert [row["hops"] for row in rows] == list(_HOPS) * 20
    assert len({row["question"] for row in rows}) == len({row["id"] for row in rows}) == 80
    for row in rows:
        answer, read = _answer_by_reading(row["question"])
        assert row["answer"] == [answer]
        assert row["supporting_ids"] == read and len(set(read)) == row["hops"]
        assert answer not in row["question"]
        assert answer in _WORLD.passage(_WORLD[read[-1]]).text
        assert {_WORLD[key].split for key in read} == {split}


def test_no_question_is_asked_in_both_splits() -> None:
    """Training and evaluation share neither a question nor an answer."""
    train, evaluation = _rows("train"), _rows("eval")
    assert not {row["question"] for row in train} & {row["question"] for row in evaluation}
    assert not {row["answer"][0] for row in train} & {row["answer"][0] for row in evaluation}


def test_the_corpus_file_is_in_flashrag_form(tmp_path) -> None:
    """What is written has `id` and `contents` and reads back as the same passages."""
    path = _WORLD.write_corpus(tmp_path / "made" / "corpus.jsonl")
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {
        "id": _WORLD.passages[0].id,
        "contents": f'"{_WORLD.passages[0].title}"\n{_WORLD.passages[0].text}',
    }
    assert list(read_corpus(path)) == _WORLD.passages


@pytest.mark.parametrize("query", ["{name}", "{relation} of {name}"])
def test_a_lower_case_name_finds_its_passage(query: str) -> None:
    """BM25 puts the passage of a name among the first three, in a world of the demo's size."""
    world = World.generate(1, 600, 300)
    wanted = [
        (entity.id, query.format(name=entity.name.lower(), relation=relation))
        for entity in world.entities
        for relation in entity.facts
    ]
    retriever = BM25Retriever.from_passages(world.passages, title_weight=3)
    hits = retriever.search([text for _, text in wanted], 3)
    found = [key in {hit.passage.id for hit in ranked} for (key, _), ranked in zip(wanted, hits, strict=True)]
    assert sum(found) / len(found) > 0.97


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: World.generate(0, 5, 0), "n_train=5"),
        (lambda: _WORLD.questions("test"), "split='test'"),
        (lambda: World.generate(0, 20, 0).questions("eval"), "split='eval'"),
        (lambda: _WORLD.questions("eval", ()), "hops=()"),
        (lambda: _WORLD.questions("eval", (0,)), "hops=(0,)"),
        (lambda: World.generate(0, 8, 0).questions("train", (1,), n=1000), "n=1000"),
    ],
)
def test_requests_that_cannot_be_met(ask, message: str) -> None:
    """Each is refused with the argument and its value."""
    with pytest.raises(DataError) as error:
        ask()
    assert message in str(error.value)


def test_running_out_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world larger than the language says so instead of looping for ever."""
    monkeypatch.setattr(names, "SYLLABLES", ("ke", "lo", "mi"))
    namer = names.Namer(random.Random(0))
    with pytest.raises(DataError, match="smaller world"):
        for _ in range(4):
            namer.person()
