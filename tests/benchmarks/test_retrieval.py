"""The benchmark of retrieval on a small index, with recall that can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a2tgpo.retrieval import Passage
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.settings import DenseSettings, IndexSettings
from tests.benchmarks.smoke import run_benchmark
from tests.retrieval.worlds import write_corpus, write_encoder

PASSAGES = [Passage("0", "kolmiel", "grizova"), Passage("1", "orvati", ""), Passage("2", "seldun", "grizova vasel")]
QUESTIONS = [
    {"id": "a", "question": "orvati", "golden_answers": ["x"], "supporting_ids": ["1"]},
    {"id": "b", "question": "grizova vasel", "golden_answers": ["x"], "supporting_ids": ["2", "0"]},
    {"id": "c", "question": "grizova vasel", "golden_answers": ["x"], "supporting_ids": ["0"]},
    {"id": "d", "question": "nothing", "golden_answers": ["x"], "supporting_ids": ["0"]},
    {"id": "e", "question": "no gold passage is known", "golden_answers": ["x"]},
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_recall_by_hand(tmp_path: Path) -> None:
    """First, first and second, second, and not found: recall at 1 and 3 of any and all gold, and reciprocal rank."""
    pytest.importorskip("faiss")
    pytest.importorskip("sentence_transformers")
    encoder = write_encoder(tmp_path / "encoder")
    corpus, questions = write_corpus(tmp_path / "corpus.jsonl", PASSAGES), tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    dense = DenseSettings(str(encoder), faiss_type="hnsw")
    build_index(corpus, tmp_path / "words", IndexSettings.of("bm25"))
    build_index(corpus, tmp_path / "both", IndexSettings.of("hybrid", dense=dense))
    arguments = [tmp_path / "words", tmp_path / "both", "--questions", questions, "--effort", "2", "--repeats", "2"]
    written, printed = run_benchmark("retrieval", tmp_path / "out.json", *arguments)
    assert "MB per million passages" in printed and "queries/s" in printed
    (case,) = written["cases"]
    (scores,) = case["facts"]["recall"]["words"].values()
    assert scores["questions"] == 4
    assert [scores[f"any@{k}"] for k in (1, 3, 10)] == [0.5, 0.75, 0.75]
    assert [scores[f"all@{k}"] for k in (1, 3, 10)] == [0.25, 0.75, 0.75]
    assert scores["mrr"] == (1 + 1 + 1 / 2 + 0) / 4
    assert set(case["seconds"]) == {
        "words", "both", "both: vectors", "both, effort 2", "both, effort 2: vectors", "encoder"
    }  # fmt: skip
    assert all(len(taken) == 2 for taken in case["seconds"].values())
    sizes = {Path(folder).name: facts for folder, facts in case["facts"]["sizes"].items()}
    assert set(sizes["words"]["disk"]) == {"passages", "bm25"} and set(sizes["both"]["disk"]) >= {"dense"}
    assert all(facts["memory"]["mapped"] >= 0 for facts in sizes.values())
