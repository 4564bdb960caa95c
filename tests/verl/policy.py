"""A small policy that has seen the protocol, and rows for verl to train it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.data.demonstrations import Imperfection, demonstrate_hops
from a2tgpo.data.world import World
from a2tgpo.pretrained import EMBEDDED, open_model, open_tokenizer
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.demonstration import encode_demonstration


def save_warm_policy(folder: Path, steps: int = 40, batch_size: int = 16) -> None:
    """Train the embedded policy on demonstrations for a moment, as a recipe's warm start does, and save it."""
    torch.manual_seed(0)
    tokenizer, model = open_tokenizer(EMBEDDED), open_model(EMBEDDED, dtype=torch.float32)
    agent = SearchAgent(tokenizer, lambda queries: [[] for _ in queries], RolloutLimits())
    shown = demonstrate_hops(
        steps * batch_size, seed=0, hops=[1, 2], imperfection=Imperfection(stops_early=0.3, wrong_hop=0.2)
    )
    rows = [encode_demonstration(agent, demonstration) for demonstration in shown]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        ids = pad_sequence([torch.tensor(row["input_ids"]) for row in batch], batch_first=True)
        written = pad_sequence([torch.tensor(row["completion_mask"]) for row in batch], batch_first=True).bool()
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits[written[:, 1:]], ids[:, 1:][written[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def small_world() -> World:
    """A generated world of few entities."""
    return World.generate(0, 60, 30)


def question_rows(world: World, n: int, hops: list[int]) -> list[dict[str, Any]]:
    """Training questions of one or two hops."""
    return list(world.questions("train", hops, n))
