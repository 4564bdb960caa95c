"""The generated world as files: an index of its corpus, questions about it, and a policy that searches it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from a2tgpo.data.demonstrations import Imperfection, demonstrate_hops
from a2tgpo.data.world import World
from a2tgpo.pretrained import EMBEDDED, resolve
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.settings import BM25Settings, IndexSettings
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.demonstration import encode_demonstration


@dataclass(frozen=True)
class WorldFiles:
    """An index folder, a file of questions, and what is in it."""

    index: Path
    questions: Path
    rows: list[dict[str, Any]]

    @classmethod
    def write(cls, folder: Path, n: int) -> WorldFiles:
        """`n` questions of one and two hops."""
        world = World.generate(3, 24, 16)
        index = folder / "index"
        settings = IndexSettings(backend="bm25", bm25=BM25Settings(), dense=None)
        build_index(world.write_corpus(folder / "corpus.jsonl"), index, settings)
        rows = world.questions("eval", [1, 2], n)
        questions = folder / "questions.jsonl"
        questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return cls(index, questions, rows)


def save_searching_policy(folder: Path) -> Path:
    """The embedded policy after twenty steps of demonstrations: it searches, and now and then is right."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve(EMBEDDED), padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(resolve(EMBEDDED), dtype="float32")
    agent = SearchAgent(tokenizer, lambda queries: [[] for _ in queries], RolloutLimits(passage_tokens=48))
    perfect = Imperfection(stops_early=0.0, wrong_hop=0.0)
    rows = [encode_demonstration(agent, shown) for shown in demonstrate_hops(160, 0, [1, 2], perfect)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for start in range(0, len(rows), 8):
        batch = rows[start : start + 8]
        width = max(len(row["input_ids"]) for row in batch)
        ids = [row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in batch]
        written = [row["completion_mask"] + [0] * (width - len(row["input_ids"])) for row in batch]
        labels = torch.tensor(ids).masked_fill(~torch.tensor(written, dtype=torch.bool), -100)
        model(input_ids=torch.tensor(ids), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
