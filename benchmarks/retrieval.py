"""Measure each search index: recall of gold passages, queries per second, bytes.

    python benchmarks/retrieval.py INDEX [INDEX ...] --questions DATA/hotpotqa/dev.jsonl DATA/musique/dev.jsonl

Every INDEX is a folder of `a2tgpo index`. The query is the question as it stands; an agent's queries are others. A
question counts if it names its gold passages (`supporting_ids`). Recall@k is the share of questions with any, or with
all, of their gold passages among the first k; the reciprocal rank is of the first gold passage, 0 below rank 10.

Time is for batches of 32 queries, ten hits each; "vectors" is the nearest-neighbour search alone, without the encoder.
Memory is what a second opening of the index and all questions to it add to a process: private bytes without the
encoder's weights, and mapped bytes, pages of its files that the questions touched and that the system may take back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _measure import Case, Variant, measure, write_json
from rich.console import Console
from rich.table import Table

from a2tgpo.data.formats import load_questions
from a2tgpo.retrieval.dense import DenseRanker
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.manifest import Manifest
from a2tgpo.retrieval.retriever import FusedRanker, PassageRetriever
from a2tgpo.retrieval.source import open_index

CUTS, BATCH = (1, 3, 5, 10), 32
Questions = Sequence[Mapping[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("indexes", metavar="INDEX", nargs="*", type=Path)
    parser.add_argument(
        "--questions", nargs="+", type=Path, required=True, help="files of questions with supporting_ids"
    )
    parser.add_argument("--effort", type=int, nargs="+", default=[], help="measure hnsw and ivfpq at these efforts too")
    parser.add_argument("--timed_queries", type=int, default=256, help="questions that are timed (default: 256)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--memory_of", type=Path, help=argparse.SUPPRESS)  # the process that measures one index
    arguments = parser.parse_args()
    questions = load_gold(arguments.questions)
    if arguments.memory_of:
        print(json.dumps(memory(arguments.memory_of, questions)))
        return
    opened = open_all(arguments.indexes, arguments.effort)
    found = {name: recall(retriever, questions) for name, retriever in opened.items()}
    sizes = {str(folder): size(folder, arguments.questions) for folder in arguments.indexes}
    queries = [row["question"] for rows in questions.values() for row in rows]
    queries = queries[:: max(1, len(queries) // arguments.timed_queries)]
    case = speed(opened, queries, arguments.repeats, {"recall": found, "sizes": sizes})
    print_recall(found)
    print_sizes(sizes)
    print_rates(case, len(queries))
    if arguments.json:
        write_json(arguments.json, "Retrieval", [case])


def load_gold(files: Sequence[Path]) -> dict[str, Questions]:
    """Return the questions that name their gold passages, by data set."""
    questions: dict[str, Questions] = {}
    for file in files:
        rows = [row for row in load_questions(file) if row["supporting_ids"]]
        assert rows, f"{file}: no question has supporting_ids"
        questions[rows[0]["dataset"] or file.stem] = rows
    return questions


def open_all(folders: Sequence[Path], efforts: Sequence[int]) -> dict[str, PassageRetriever]:
    """Yield every index by its folder's name, and again at each effort where it has one."""
    opened = {}
    for folder in folders:
        opened[folder.name] = open_index(folder)
        dense = Manifest.read(folder).settings.dense
        for effort in efforts if dense and dense.faiss_type in ("hnsw", "ivfpq") else ():
            opened[f"{folder.name}, effort {effort}"] = open_index(folder, effort=effort)
    return opened


def recall(retriever: PassageRetriever, questions: Mapping[str, Questions]) -> dict[str, dict[str, float]]:
    """Return for each data set `any@k` and `all@k` of the gold passages, and the mean reciprocal rank."""
    scores = {}
    for name, rows in questions.items():
        hits = retriever.search([row["question"] for row in rows], max(CUTS))
        sums: dict[str, float] = {"mrr": 0.0} | {f"{kind}@{k}": 0.0 for kind in ("any", "all") for k in CUTS}
        for row, found in zip(rows, hits, strict=True):
            ids, gold = [hit.passage.id for hit in found], set(row["supporting_ids"])
            ranks = [rank for rank, identifier in enumerate(ids, start=1) if identifier in gold]
            sums["mrr"] += 1 / ranks[0] if ranks else 0
            for k in CUTS:
                sums[f"any@{k}"] += bool(gold & set(ids[:k]))
                sums[f"all@{k}"] += gold <= set(ids[:k])
        scores[name] = {"questions": len(rows)} | {measure: total / len(rows) for measure, total in sums.items()}
    return scores


def speed(
    opened: Mapping[str, PassageRetriever], queries: Sequence[str], repeats: int, facts: Mapping[str, Any]
) -> Case:
    """Time all queries in batches: whole searches, vectors alone, and the encoder alone."""
    batches = [queries[i : i + BATCH] for i in range(0, len(queries), BATCH)]
    variants: dict[str, Variant] = {}
    for name, retriever in opened.items():
        variants[name] = timed(name, [(retriever.search, batch) for batch in batches])
        for ranker in parts(retriever):
            if isinstance(ranker, DenseRanker):
                encoded = [ranker.encoder.queries(batch) for batch in batches]
                alone = f"{name}: vectors"
                variants[alone] = timed(alone, [(ranker.rank_vectors, vectors) for vectors in encoded])
                variants["encoder"] = timed("encoder", [(encode_with(ranker.encoder), batch) for batch in batches])
    seconds = measure(variants, torch.device("cpu"), repeats=repeats)
    return Case(f"{len(queries)} queries in batches of {BATCH}", seconds, next(iter(seconds)), facts=facts)


def timed(name: str, calls: Sequence[tuple[Any, Any]]) -> Variant:
    """Return a variant that makes every call once, for ten hits each."""

    def variant() -> dict[str, float]:
        start = time.perf_counter()
        for call, argument in calls:
            call(argument, max(CUTS))
        return {name: time.perf_counter() - start}

    return variant


def encode_with(encoder: Encoder) -> Callable[[Sequence[str], int], object]:
    return lambda queries, _: encoder.queries(queries)


def parts(retriever: PassageRetriever) -> Sequence[Any]:
    ranker = retriever.ranker
    return ranker.rankers if isinstance(ranker, FusedRanker) else [ranker]


def size(folder: Path, question_files: Sequence[Path]) -> dict[str, Any]:
    """Return bytes on disk by part and in memory, and what the index is."""
    manifest = Manifest.read(folder)
    disk = {
        part: sum(path.stat().st_size for path in (folder / part).rglob("*") if path.is_file())
        for part in ("passages", "bm25", "dense")
        if (folder / part).is_dir()
    }
    command = [sys.executable, __file__, "--memory_of", str(folder), "--questions", *map(str, question_files)]
    measured = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    of_process = json.loads(measured.splitlines()[-1])
    return {"manifest": asdict(manifest), "n_passages": manifest.n_passages, "disk": disk, "memory": of_process}


def memory(folder: Path, questions: Mapping[str, Questions]) -> dict[str, int]:
    """Count the bytes that opening the index and answering every question take, without the encoder's weights.

    An index that is open already keeps libraries and the encoder's working memory out of the account.
    """
    opened, used = [], []
    for _ in range(2):
        opened.append(open_index(folder))
        for rows in questions.values():
            for row in rows:
                opened[-1].search([row["question"]], max(CUTS))
        used.append(resident())
    private, mapped = (after - before for before, after in zip(*used, strict=True))
    encoders = [part.encoder for part in parts(opened[-1]) if isinstance(part, DenseRanker)]
    weights = sum(weight.nbytes for encoder in encoders for weight in encoder.model.parameters())
    return {"private": max(0, private - weights), "mapped": max(0, mapped)}


def resident() -> tuple[int, int]:
    """Return private and file-backed bytes of this process in memory, as Linux counts them."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    private, mapped = (1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return private, mapped


def print_recall(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    table = Table("index", "data set", "questions", *(f"any@{k}" for k in CUTS), *(f"all@{k}" for k in CUTS), "MRR@10")
    for index, scores in found.items():
        for i, (name, score) in enumerate(scores.items()):
            shares = [f"{score[f'{kind}@{k}']:.3f}" for kind in ("any", "all") for k in CUTS]
            table.add_row("" if i else index, name, str(score["questions"]), *shares, f"{score['mrr']:.3f}")
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 132).print(table)


def print_sizes(sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """Say it by passage: a byte per passage is a megabyte per million of them."""
    table = Table(
        "index", "passages", "text", "postings", "vectors", "private memory", "mapped", title="MB per million passages"
    )
    for folder, facts in sizes.items():
        disk = [facts["disk"].get(part) for part in ("passages", "bm25", "dense")]
        cells = [*disk, facts["memory"]["private"], facts["memory"]["mapped"]]
        shown = ["–" if cell is None else f"{cell / facts['n_passages']:,.0f}" for cell in cells]
        table.add_row(Path(folder).name, f"{facts['n_passages']:,}", *shown)
    Console(width=None if sys.stdout.isatty() else 132).print(table)


def print_rates(case: Case, n_queries: int) -> None:
    table = Table("search", "queries/s, median", "min to max", title=case.size)
    for name, taken in case.seconds.items():
        rates = sorted(n_queries / seconds for seconds in taken)
        table.add_row(name, f"{statistics.median(rates):,.1f}", f"{rates[0]:,.1f} to {rates[-1]:,.1f}")
    Console(width=None if sys.stdout.isatty() else 132).print(table)


if __name__ == "__main__":
    main()
