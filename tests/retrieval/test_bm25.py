"""BM25: what is found, in which order, and an index on disk that is never stale nor half written."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from a2tgpo.errors import CorpusError
from a2tgpo.retrieval import BM25Retriever, Passage, bm25
from a2tgpo.retrieval.bm25 import BM25Ranker
from tests.retrieval.worlds import passages as random_passages
from tests.retrieval.worlds import write_corpus

WORLD = [
    Passage("0", "Tomi Vask", "Painter from Orel. He studied with Ina Kol."),
    Passage("1", "Orel", "A town on the river Sel. Its mayor is a baker."),
    Passage("2", "Ina Kol", "A sculptor who taught in Orel and wrote of Tomi Vask, Tomi Vask and Tomi Vask."),
    Passage("3", "It", "A film by Ina Kol about a clown."),
    Passage("4", "Malcolm X", "A preacher."),
    Passage("5", "Sel", "Longest river of the valley."),
]


def ids(retriever: BM25Retriever, query: str, k: int = 10) -> list[str]:
    return [hit.passage.id for hit in retriever.search([query], k)[0]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl", WORLD)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often an index is built: one entry, the title weight, per build."""
    weights: list[int] = []
    build = BM25Ranker.of

    def counted(passages: list[Passage], title_weight: int) -> BM25Ranker:
        weights.append(title_weight)
        return build(passages, title_weight)

    monkeypatch.setattr(BM25Ranker, "of", counted)
    return weights


def test_scores_are_bm25() -> None:
    """The score equals Lucene's BM25 formula written out for a corpus small enough to count by hand."""
    passages = [Passage("a", "", "river river town"), Passage("b", "", "town"), Passage("c", "", "hill")]
    (hit,) = BM25Retriever.from_passages(passages).search(["river"], 3)[0]
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    mean_length = 5 / 3
    expected = idf * 2 / (2 + 1.5 * (1 - 0.75 + 0.75 * 3 / mean_length))
    assert (hit.passage.id, hit.score) == ("a", pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize("title_weight", [1, 3])
def test_ranking_is_brute_force(title_weight: int) -> None:
    """Every hit and score of random queries equals Lucene's formula summed word by word over all passages."""
    passages = random_passages(60)
    counts = [Counter(title_weight * p.title.split() + p.text.split()) for p in passages]
    frequency = Counter(word for count in counts for word in count)
    mean_length = sum(map(Counter.total, counts)) / len(counts)

    def score(query: str, count: Counter[str]) -> float:
        total = 0.0
        for word in query.split():
            idf = math.log(1 + (len(counts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            saturation = 1.5 * (1 - 0.75 + 0.75 * count.total() / mean_length)
            total += idf * count[word] / (count[word] + saturation)
        return total

    retriever = BM25Retriever.from_passages(passages, title_weight)
    for query in ("kolmiel orvati", passages[3].title, passages[7].text):
        scores = {p.id: score(query, count) for p, count in zip(passages, counts, strict=True)}
        hits = retriever.search([query], 60)[0]
        assert {hit.passage.id: hit.score for hit in hits} == pytest.approx({i: s for i, s in scores.items() if s > 0})
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_inflected_words_and_possessives_match() -> None:
    """Stemming joins the forms of a word, and a possessive names its owner."""
    retriever = BM25Retriever.from_passages(WORLD)
    assert ids(retriever, "painters") == ["0"]
    assert set(ids(retriever, "Ina Kol's")) == set(ids(retriever, "Ina Kol’s")) == {"0", "2", "3"}


@pytest.mark.parametrize("query", ["", "  ", "?!", "the", "of the and", "zzyzx"])
def test_no_common_word_is_no_hit(query: str) -> None:
    """Empty queries, stop words and unknown words find nothing, rather than k passages of score 0."""
    assert BM25Retriever.from_passages(WORLD).search([query], 3) == [[]]


def test_passages_without_a_query_word_are_dropped() -> None:
    """Fewer passages than k match, so fewer than k are returned; k may exceed the corpus."""
    assert ids(BM25Retriever.from_passages(WORLD), "river", k=1000) == ["5", "1"]


def test_names_that_look_like_stop_words_or_letters_are_found() -> None:
    """A title of stop words alone is found by its name only; single letters and "will" are words."""
    retriever = BM25Retriever.from_passages([*WORLD, Passage("6", "Ned Orr", ""), Passage("7", "Will Orr", "")])
    assert ids(retriever, "Will Orr") == ["7", "6"]
    assert ids(retriever, "it") == ["3"]
    assert ids(retriever, "X") == ["4"]


def test_title_weight_changes_the_ranking() -> None:
    """Counting the title more brings the passage about a name before one that merely repeats the name."""
    assert ids(BM25Retriever.from_passages(WORLD), "Tomi Vask")[0] == "2"
    assert ids(BM25Retriever.from_passages(WORLD, title_weight=4), "Tomi Vask")[0] == "0"


def test_batch_equals_single() -> None:
    """A query has the same hits and scores alone and in any batch, in the batch's order."""
    retriever = BM25Retriever.from_passages(WORLD)
    queries = ["river", "", "Ina Kol", "the", "Orel painter", "river"]
    assert retriever.search(queries, 3) == [retriever.search([query], 3)[0] for query in queries]
    assert retriever.search([], 3) == []


def test_ties_keep_the_corpus_order() -> None:
    """Among equal scores the earlier passages win, for every k, so that runs repeat exactly."""
    twins = [Passage(str(i), "", "same words" if i % 2 else "other") for i in range(40)]
    retriever = BM25Retriever.from_passages(twins)
    odd = [str(i) for i in range(1, 40, 2)]
    for k in (1, 3, 19, 20, 40):
        assert ids(retriever, "same words", k) == odd[:k]


def test_concurrent_searches_agree() -> None:
    """Threads share one retriever without disturbing each other."""
    retriever = BM25Retriever.from_passages(WORLD)
    queries = ["painters of Orel", "rivers", "Ina Kol's sculptures"] * 20
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: retriever.search(queries, 3), range(16)))
    assert all(result == results[0] for result in results)


def test_bad_arguments_are_named() -> None:
    """Each argument that cannot be right is refused with its name and value."""
    with pytest.raises(ValueError, match="title_weight=0"):
        BM25Retriever.from_passages(WORLD, title_weight=0)
    with pytest.raises(ValueError, match="k=0"):
        BM25Retriever.from_passages(WORLD).search(["x"], 0)
    with pytest.raises(ValueError, match="'river' is one string"):
        BM25Retriever.from_passages(WORLD).search("river", 1)
    with pytest.raises(CorpusError, match="passages is empty"):
        BM25Retriever.from_passages([])
    with pytest.raises(CorpusError, match="none of the 1 passages holds a word"):
        BM25Retriever.from_passages([Passage("a", "", "?")])


def test_second_build_loads_the_index(corpus: Path, tmp_path: Path, builds: list[int]) -> None:
    """Unchanged content is indexed once, whatever the file name, and the loaded index finds the same."""
    first = BM25Retriever.build(corpus, cache_dir=tmp_path / "cache")
    moved = corpus.rename(tmp_path / "moved.jsonl")
    second = BM25Retriever.build(moved, cache_dir=tmp_path / "cache")
    assert builds == [1]
    queries = ["river", "Ina Kol", "it", "nothing here"]
    assert first.search(queries, 5) == second.search(queries, 5)
    in_memory = BM25Retriever.from_passages(WORLD)
    assert first.search(queries, 5) == in_memory.search(queries, 5)


def test_changed_corpus_or_title_weight_is_indexed_anew(corpus: Path, tmp_path: Path, builds: list[int]) -> None:
    """A stale index is never used: other content or another title weight builds, going back loads."""
    cache = tmp_path / "cache"
    BM25Retriever.build(corpus, cache_dir=cache)
    BM25Retriever.build(corpus, cache_dir=cache, title_weight=3)
    write_corpus(corpus, [*WORLD, Passage("6", "Quay", "A harbour.")])
    assert ids(BM25Retriever.build(corpus, cache_dir=cache), "harbour") == ["6"]
    write_corpus(corpus, WORLD)
    assert ids(BM25Retriever.build(corpus, cache_dir=cache), "harbour") == []
    assert builds == [1, 3, 1]


def test_another_bm25s_is_another_index(
    corpus: Path, tmp_path: Path, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index written by another version of bm25s is not loaded."""
    BM25Retriever.build(corpus, cache_dir=tmp_path)
    monkeypatch.setattr(bm25.bm25s, "__version__", "0.0.0")
    BM25Retriever.build(corpus, cache_dir=tmp_path)
    assert builds == [1, 1]


def test_interrupted_build_leaves_no_index(
    corpus: Path, tmp_path: Path, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the index is written leaves nothing behind, and the next call builds a whole one."""
    cache = tmp_path / "cache"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bm25.bm25s.BM25, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            BM25Retriever.build(corpus, cache_dir=cache)
    assert list(cache.iterdir()) == []
    assert ids(BM25Retriever.build(corpus, cache_dir=cache), "river") == ["5", "1"]
    assert builds == [1, 1]


def test_killed_build_is_not_taken_for_an_index(corpus: Path, tmp_path: Path, builds: list[int]) -> None:
    """A process killed outright cannot tidy up; what it leaves is never loaded."""
    cache = tmp_path / "cache"
    script = (
        "import os, sys; from a2tgpo.retrieval import bm25\n"
        "bm25.bm25s.BM25.save = lambda *_, **__: os._exit(9)\n"
        "bm25.BM25Retriever.build(sys.argv[1], cache_dir=sys.argv[2])"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(corpus), str(cache)])
    assert killed.returncode == 9
    assert len(list(cache.iterdir())) == 1
    assert ids(BM25Retriever.build(corpus, cache_dir=cache), "river") == ["5", "1"]
    assert builds == [1]


def test_the_other_process_may_finish_first(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process stores the same index during our build, both end with a whole one."""
    build, raced = BM25Ranker.of, []

    def build_while_another_does(passages: list[Passage], title_weight: int) -> BM25Ranker:
        if not raced:
            raced.append(True)
            BM25Retriever.build(corpus, cache_dir=tmp_path / "cache")
        return build(passages, title_weight)

    monkeypatch.setattr(BM25Ranker, "of", build_while_another_does)
    assert ids(BM25Retriever.build(corpus, cache_dir=tmp_path / "cache"), "river") == ["5", "1"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_cache_that_cannot_be_used_is_named(corpus: Path, tmp_path: Path) -> None:
    """A cache that cannot be written, and one somebody damaged, say where they are and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="give a cache_dir that can be written"):
        BM25Retriever.build(corpus, cache_dir=tmp_path / "file" / "cache")
    BM25Retriever.build(corpus, cache_dir=tmp_path / "cache")
    (index,) = (tmp_path / "cache").iterdir()
    (index / "data.csc.index.npy").write_bytes(b"")
    with pytest.raises(CorpusError, match=f"{index} is damaged .* delete it"):
        BM25Retriever.build(corpus, cache_dir=tmp_path / "cache")


def test_default_cache_follows_xdg(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cache_dir the index goes where XDG_CACHE_HOME says, or else under ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    BM25Retriever.build(corpus)
    assert len(list((tmp_path / "xdg/a2tgpo/bm25").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    BM25Retriever.build(corpus)
    assert len(list((tmp_path / "home/.cache/a2tgpo/bm25").iterdir())) == 1


@pytest.mark.parametrize("jax_first", [False, True])
def test_jax_is_left_alone(tmp_path: Path, jax_first: bool) -> None:
    """bm25s runs on NumPy and never touches an installed JAX, and a program's own JAX keeps working."""
    fake = tmp_path / "jax"
    fake.mkdir()
    (fake / "__init__.py").write_text("import os\nif 'FORBID' in os.environ: os._exit(7)\n")
    (fake / "lax.py").write_text("import os\ntop_k = lambda *_: os._exit(8)\n")
    script = (
        ("import jax.lax\n" if jax_first else "") + "import os, sys\n"
        "from a2tgpo.retrieval import BM25Retriever, Passage, bm25\n"
        "retriever = BM25Retriever.from_passages([Passage('a', 'Orel', 'A town.')])\n"
        "assert retriever.search(['town'], 1)[0][0].passage.id == 'a'\n"
        "assert retriever.ranker.index.backend == 'numpy'\n"
        "os.environ.pop('FORBID', None)\n"
        "import jax.lax\n"
        "assert sys.modules['jax.lax'] is jax.lax and callable(jax.lax.top_k)\n"
    )
    search_path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": search_path, **({} if jax_first else {"FORBID": "1"})}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0
