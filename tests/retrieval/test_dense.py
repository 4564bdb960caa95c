"""Vectors: the encoder's texts, and each type of faiss index against NumPy."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("sentence_transformers")

import faiss

from a2tgpo.errors import IndexMismatch, RecipeError
from a2tgpo.retrieval import Passage
from a2tgpo.retrieval.dense import DenseRanker, build_faiss, open_faiss, vectors_of
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.settings import FAISS_TYPES, DenseSettings, FaissType
from tests.retrieval.worlds import WORDS, write_encoder, write_static_encoder

QUERIES = [" ".join(WORDS[i : i + 4]) for i in range(0, 160, 8)]


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> Encoder:
    return Encoder(DenseSettings(encoder=str(encoder_folder)))


@pytest.fixture(scope="module")
def vectors(encoder: Encoder, world: list[Passage]) -> np.ndarray:
    return encoder.passages(world)


@pytest.fixture(scope="module")
def indexes(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[FaissType, Path]:
    """One file of each type; the vectors come in arrays of unequal length, as the shards of a build do."""
    folder = tmp_path_factory.mktemp("indexes")
    paths: dict[FaissType, Path] = {kind: folder / f"{kind}.faiss" for kind in FAISS_TYPES}
    for kind, path in paths.items():
        build_faiss(kind, [vectors[:250], vectors[250:500], vectors[500:]], path)
    return paths


def exact(vectors: np.ndarray, encoder: Encoder, k: int) -> np.ndarray:
    """The k nearest positions of each query by a full sort, [queries, k]."""
    return np.argsort(-encoder.queries(QUERIES) @ vectors.T, axis=1, kind="stable")[:, :k]


def test_vectors_are_the_models_own(encoder: Encoder, encoder_folder: Path, world: list[Passage]) -> None:
    """Passages are Search-R1's title in quotes, line break, text; queries are as they are; vectors have length 1."""
    from sentence_transformers import SentenceTransformer

    texts = [f'"{p.title}"\n{p.text}' for p in world[:9]] + ["no title", world[0].text]
    expected = SentenceTransformer(str(encoder_folder)).encode(texts, normalize_embeddings=True)
    found = np.concatenate(
        [encoder.passages([*world[:9], Passage("x", "", "no title")]), encoder.queries([world[0].text])]
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_prefixes(tmp_path: Path, encoder_folder: Path) -> None:
    """E5 gets its own prefixes by its name, other models their prompts, and the user's win over both."""
    e5, cached = tmp_path / "e5-base-v2", tmp_path / "models--intfloat--e5-small" / "snapshots" / "12ab"
    cached.parent.mkdir(parents=True)
    for path in (e5, cached):
        path.symlink_to(encoder_folder)
    prompted = write_encoder(tmp_path / "prompted", prompts={"query": "ask: ", "document": "doc: "})

    def prefixes(**settings: str) -> tuple[str, str]:
        loaded = Encoder(DenseSettings(**settings))
        return loaded.query_prefix, loaded.passage_prefix

    assert prefixes(encoder=str(e5)) == prefixes(encoder=str(cached)) == ("query: ", "passage: ")
    assert prefixes(encoder=str(encoder_folder)) == ("", "")
    assert prefixes(encoder=str(prompted)) == ("ask: ", "doc: ")
    assert prefixes(encoder=str(e5), query_prefix="", passage_prefix="p ") == ("", "p ")
    plain, prefixed = Encoder(DenseSettings(encoder=str(encoder_folder))), Encoder(DenseSettings(encoder=str(e5)))
    np.testing.assert_allclose(prefixed.queries(["sk"]), plain.queries(["query: sk"]), atol=1e-6)
    np.testing.assert_allclose(prefixed.passages([Passage("x", "", "sk")]), plain.queries(["passage: sk"]), atol=1e-6)


def test_long_texts_are_cut(encoder_folder: Path) -> None:
    """What comes after `max_length` tokens changes nothing; a text half a surrogate pair long is no failure."""
    short = Encoder(DenseSettings(encoder=str(encoder_folder), max_length=8))
    begin = " ".join(WORDS[:6])
    np.testing.assert_allclose(short.queries([begin]), short.queries([begin + " " + WORDS[50]]), atol=1e-6)
    assert short.queries(["\ud83d"]).shape == (1, 32)


def test_a_model_of_word_vectors(tmp_path: Path, world: list[Passage]) -> None:
    """A model without a limit of length works as well, and finds a passage by its own words."""
    encoder = Encoder(DenseSettings(encoder=str(write_static_encoder(tmp_path / "static"))))
    build_faiss("flat", [encoder.passages(world)], tmp_path / "flat.faiss")
    ranker = DenseRanker(open_faiss(tmp_path / "flat.faiss"), encoder)
    found = ranker.rank([f"{p.title} {p.text}" for p in world[:50]], 1)
    assert [positions[0][0] for positions in found] == list(range(50))


def test_flat_is_a_full_sort(indexes: dict[FaissType, Path], vectors: np.ndarray, encoder: Encoder) -> None:
    """Flat finds what sorting all inner products finds, with those products as scores."""
    found = DenseRanker(open_faiss(indexes["flat"]), encoder).rank(QUERIES, 10)
    assert [[position for position, _ in ranking] for ranking in found] == exact(vectors, encoder, 10).tolist()
    products = np.sort(encoder.queries(QUERIES) @ vectors.T, axis=1)[:, ::-1][:, :10]
    np.testing.assert_allclose([[score for _, score in ranking] for ranking in found], products, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "effort", "least"), [("hnsw", None, 0.99), ("sq8", None, 0.9), ("ivfpq", 1000, 0.5), ("ivfpq", 1, 0.1)]
)
def test_recall_of_the_exact_neighbours(
    indexes: dict[FaissType, Path],
    vectors: np.ndarray,
    encoder: Encoder,
    kind: FaissType,
    effort: int | None,
    least: float,
) -> None:
    """The share of the exact first ten that each approximation keeps, with margins that only a bug would miss."""
    found = DenseRanker(open_faiss(indexes[kind]), encoder, effort).rank(QUERIES, 10)
    kept = [
        len({position for position, _ in ranking} & set(neighbours)) / 10
        for ranking, neighbours in zip(found, exact(vectors, encoder, 10).tolist(), strict=True)
    ]
    assert np.mean(kept) >= least


def test_effort_trades_time_for_recall(indexes: dict[FaissType, Path], encoder: Encoder) -> None:
    """More cells never lower the best score found; an index that compares everything has no effort."""
    best = [
        [ranking[0][1] for ranking in DenseRanker(open_faiss(indexes["ivfpq"]), encoder, effort).rank(QUERIES, 1)]
        for effort in (1, 4, 1000)
    ]
    assert np.all(np.diff(best, axis=0) >= -1e-6) and np.any(np.diff(best, axis=0) > 0)
    with pytest.raises(ValueError, match="effort=4: a flat index compares every vector"):
        DenseRanker(open_faiss(indexes["flat"]), encoder, 4)
    with pytest.raises(ValueError, match="effort=0"):
        DenseRanker(open_faiss(indexes["hnsw"]), encoder, 0)


@pytest.mark.parametrize("kind", FAISS_TYPES)
def test_edges(indexes: dict[FaissType, Path], encoder: Encoder, kind: FaissType) -> None:
    """Blank queries find nothing, k may exceed the corpus, positions exist, batches and threads change nothing."""
    ranker = DenseRanker(open_faiss(indexes[kind]), encoder)
    assert ranker.rank([], 3) == []
    blank, found, space = ranker.rank(["", QUERIES[0], " \n"], 1000)
    assert blank == space == []
    positions = [position for position, _ in found]
    assert len(set(positions)) == len(positions) <= 600 and set(positions) <= set(range(600))
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))
    alone = [[position for position, _ in ranker.rank([query], 5)[0]] for query in QUERIES]
    with ThreadPoolExecutor(8) as threads:
        for together in threads.map(lambda _: ranker.rank(QUERIES, 5), range(8)):
            assert [[position for position, _ in ranking] for ranking in together] == alone


def test_equal_vectors_keep_the_corpus_order(encoder: Encoder, tmp_path: Path) -> None:
    """Passages with one text have one score, and the earlier come first."""
    same = encoder.passages([Passage("", "", "sk")] * 5)
    build_faiss("flat", [same], tmp_path / "flat.faiss")
    (found,) = DenseRanker(open_faiss(tmp_path / "flat.faiss"), encoder).rank(["va"], 5)
    assert [position for position, _ in found] == [0, 1, 2, 3, 4]


def test_ivfpq_says_what_it_needs(vectors: np.ndarray, tmp_path: Path) -> None:
    """Too few passages to train on, and a dimension that four does not divide, are refused before any work."""
    with pytest.raises(RecipeError, match="at least 256 passages and the corpus has 100"):
        build_faiss("ivfpq", [vectors[:100]], tmp_path / "x")
    with pytest.raises(RecipeError, match="the encoder has 30; use sq8"):
        build_faiss("ivfpq", [np.ascontiguousarray(vectors[:, :30])], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_index_is_refused(tmp_path: Path, vectors: np.ndarray) -> None:
    """A missing file, garbage, a cut-off index and one by another distance are IndexMismatch, not a crash of faiss."""
    with pytest.raises(IndexMismatch, match="does not exist"):
        open_faiss(tmp_path / "missing")
    (tmp_path / "garbage").write_bytes(b"not an index at all")
    by_distance = faiss.IndexFlatL2(32)
    faiss.write_index(by_distance, str(tmp_path / "l2"))
    build_faiss("flat", [vectors], tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-1000])
    for name, says in (("garbage", "no faiss index"), ("cut", "damaged"), ("l2", "IndexFlatL2 of metric 1")):
        with pytest.raises(IndexMismatch, match=says):
            open_faiss(tmp_path / name)


def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    """A folder without a model is an IndexMismatch that names it."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(IndexMismatch, match=f"encoder '{tmp_path / 'empty'}' cannot be loaded"):
        Encoder(replace(DenseSettings(), encoder=str(tmp_path / "empty")))


def test_vectors_are_read_in_place(indexes: dict[FaissType, Path], vectors: np.ndarray) -> None:
    """The vectors of a flat index are its own, bit by bit."""
    index = open_faiss(indexes["flat"])
    np.testing.assert_array_equal(vectors_of(index), vectors)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("kind", FAISS_TYPES)
def test_vectors_stay_on_disk(kind: FaissType, tmp_path: Path) -> None:
    """Opening an index and searching it takes less private memory than a fifth of the vectors in it."""
    rows = np.random.default_rng(0).standard_normal((20_000, 64), dtype=np.float32)
    factory = {"flat": "Flat", "hnsw": "HNSW8", "sq8": "SQ8", "ivfpq": "IVF8,PQ64x4np"}[kind]
    index = faiss.index_factory(64, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:2000])
    for _ in range(8 if kind in ("sq8", "ivfpq") else 1):
        index.add(rows)
    faiss.write_index(index, str(tmp_path / "index"))
    size = (tmp_path / "index").stat().st_size
    assert size > 5e6
    script = (
        "import sys, faiss, numpy as np; from pathlib import Path\n"
        "from a2tgpo.retrieval.dense import open_faiss\n"
        "used = lambda: int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0]) * 1024\n"
        "before = used(); index = open_faiss(Path(sys.argv[1]))\n"
        "index.search(np.ones((1, 64), np.float32), 3); print(used() - before)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "index")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < size / 5
