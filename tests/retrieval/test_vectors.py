"""Vectors that others computed: Search-R1's flat index, taken as it is or turned into another type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("sentence_transformers")

import faiss

from a2tgpo.errors import IndexMismatch
from a2tgpo.retrieval import Passage
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.settings import DenseSettings, FaissType, IndexSettings
from a2tgpo.retrieval.source import open_index
from tests.retrieval.worlds import WORDS, write_corpus, write_encoder

QUERIES = [" ".join(WORDS[i : i + 4]) for i in range(0, 160, 8)]


@pytest.fixture(scope="module")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("hub") / "e5-base-v2")


@pytest.fixture(scope="module")
def e5_flat(e5: Path, world: list[Passage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Search-R1's index builder writes: "passage: " and the contents, mean pooling, normalised, factory "Flat"."""
    from sentence_transformers import SentenceTransformer

    texts = [f'passage: "{p.title}"\n{p.text}' for p in world]
    vectors = SentenceTransformer(str(e5)).encode(texts, normalize_embeddings=True)
    index = faiss.index_factory(32, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    path = tmp_path_factory.mktemp("published") / "e5_Flat.index"
    faiss.write_index(index, str(path))
    return path


def settings(e5: Path, faiss_type: FaissType = "flat") -> IndexSettings:
    return IndexSettings.of("dense", dense=DenseSettings(str(e5), faiss_type=faiss_type))


@pytest.fixture
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that encodes more than the sample of the check."""
    encode = Encoder.passages

    def few(self: Encoder, passages: list[Passage]) -> np.ndarray:
        assert len(passages) <= 16
        return encode(self, passages)

    monkeypatch.setattr(Encoder, "passages", few)


@pytest.mark.parametrize("faiss_type", ["flat", "hnsw", "sq8", "ivfpq"])
def test_a_published_index_is_taken(
    tmp_path: Path,
    corpus_file: Path,
    world: list[Passage],
    e5: Path,
    e5_flat: Path,
    faiss_type: FaissType,
    no_encoding: None,
) -> None:
    """Nothing is encoded again and the file is left as it was. As a flat index or hnsw it finds what Search-R1 finds,
    same passages and same scores; in 8-bit numbers nearly all of them; ivfpq of so few passages only some."""
    published = e5_flat.read_bytes()
    build_index(corpus_file, tmp_path / "index", settings(e5, faiss_type), faiss_index=e5_flat)
    hits = open_index(tmp_path / "index").search(QUERIES, 5)
    encoder = Encoder(DenseSettings(str(e5)))
    scores, positions = faiss.read_index(str(e5_flat)).search(encoder.queries(QUERIES), 5)
    ids, exact = [[hit.passage.id for hit in found] for found in hits], [[f"p{i}" for i in row] for row in positions]
    if faiss_type in ("flat", "hnsw"):
        assert ids == exact
        np.testing.assert_allclose([[hit.score for hit in found] for found in hits], scores, atol=1e-5)
    elif faiss_type == "sq8":
        assert np.mean([len({*found} & {*best}) / 5 for found, best in zip(ids, exact, strict=True)]) >= 0.9
    else:
        assert all(len(found) == len({*found}) == 5 and {*found} <= {p.id for p in world} for found in ids)
    assert e5_flat.read_bytes() == published


def test_the_file_is_not_copied(tmp_path: Path, corpus_file: Path, e5: Path, e5_flat: Path) -> None:
    """On one disk sixty gigabytes are linked; the user's file may then be deleted."""
    mine = tmp_path / "e5_Flat.index"
    mine.write_bytes(e5_flat.read_bytes())
    build_index(corpus_file, tmp_path / "index", settings(e5), faiss_index=mine)
    assert mine.samefile(tmp_path / "index" / "dense" / "vectors.faiss")
    mine.unlink()
    assert open_index(tmp_path / "index").search(QUERIES[:1], 1)[0]


def test_a_link_is_followed(tmp_path: Path, corpus_file: Path, e5: Path, e5_flat: Path) -> None:
    """As in a Hub cache, where a file's name is a relative link to its content."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0").write_bytes(e5_flat.read_bytes())
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "e5_Flat.index").symlink_to("../blobs/0")
    build_index(corpus_file, tmp_path / "index", settings(e5), faiss_index=tmp_path / "snapshots" / "e5_Flat.index")
    assert not (tmp_path / "index" / "dense" / "vectors.faiss").is_symlink()
    assert open_index(tmp_path / "index").search(QUERIES[:1], 1)[0]


def test_a_torn_link_is_never_written_into(
    tmp_path: Path, corpus_file: Path, e5: Path, e5_flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between link and rename, and run again without the file: the user's file keeps its content."""
    from a2tgpo.retrieval import vectors

    mine, published = tmp_path / "e5_Flat.index", e5_flat.read_bytes()
    mine.write_bytes(published)
    with monkeypatch.context() as patch:
        patch.setattr(vectors.os, "link", lambda source, path: (vectors.os.symlink(source, path), exit())[1])
        with pytest.raises(SystemExit):
            build_index(corpus_file, tmp_path / "index", settings(e5), faiss_index=mine)
    build_index(corpus_file, tmp_path / "index", settings(e5))
    assert mine.read_bytes() == published and not mine.samefile(tmp_path / "index" / "dense" / "vectors.faiss")


def test_what_does_not_fit_is_refused(
    tmp_path: Path, corpus_file: Path, e5: Path, e5_flat: Path, world: list[Passage]
) -> None:
    """Another number of passages, dimension, weights or order of the corpus; a type that cannot become another."""

    def refused(corpus: Path, wanted: IndexSettings, source: Path, says: str) -> None:
        with pytest.raises(IndexMismatch, match=says):
            build_index(corpus, tmp_path / f"{says[:12]}, {corpus.stem}", wanted, faiss_index=source)

    fewer = write_corpus(tmp_path / "fewer.jsonl", world[:-1])
    refused(fewer, settings(e5), e5_flat, "600 vectors and there are 599 passages")
    small = write_encoder(tmp_path / "small", dimension=16)
    refused(corpus_file, settings(small), e5_flat, "32 dimensions and the encoder makes 16")
    turned = write_corpus(tmp_path / "turned.jsonl", [*world[1:], world[0]])
    refused(turned, settings(e5), e5_flat, "not hold this encoder's vectors of these passages")
    swapped = write_corpus(tmp_path / "swapped.jsonl", [*world[:-2], world[-1], world[-2]])
    refused(swapped, settings(e5), e5_flat, "passage 599 has cosine")
    other = write_encoder(tmp_path / "other", seed=1)
    refused(corpus_file, settings(other), e5_flat, "not hold this encoder's vectors of these passages")
    build_index(corpus_file, tmp_path / "sq8", settings(e5, "sq8"), faiss_index=e5_flat)
    refused(corpus_file, settings(e5), tmp_path / "sq8/dense/vectors.faiss", "is a sq8 index, which cannot become flat")
    with pytest.raises(ValueError, match="a bm25 index has no vectors"):
        build_index(corpus_file, tmp_path / "bm25", IndexSettings.of("bm25"), faiss_index=e5_flat)
