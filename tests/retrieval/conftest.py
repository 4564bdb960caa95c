"""A corpus of 600 passages and an encoder for it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2tgpo.retrieval import Passage
from tests.retrieval.worlds import passages, write_corpus, write_encoder


@pytest.fixture(scope="session")
def world() -> list[Passage]:
    return passages(600)


@pytest.fixture(scope="session")
def corpus_file(world: list[Passage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", world)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not named like an E5 model, so it has no prefixes."""
    pytest.importorskip("faiss")
    pytest.importorskip("sentence_transformers")
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
