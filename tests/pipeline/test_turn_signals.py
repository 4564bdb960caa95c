"""What is collected of each turn beside a likelihood."""

import torch

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import RolloutBatch, TaskRow, collect_signals


def test_the_observation_before_each_turn() -> None:
    """A turn's anchor state is what stands right before it: nothing before a turn that a completion begins with, the
    opening words of an environment before the first turn of one that begins with them, and what follows the last turn
    is nobody's. A rollout without turns has none."""
    tokenizer = build_tokenizer()
    ids = [tokenizer.convert_tokens_to_ids(name) for name in ("ba", "de", "fi", "go")]
    rows = {"m.mo": ["", "de"], ".m.m": ["ba", "fi"], "m..m": ["", "de fi"], "....": []}
    batch = RolloutBatch.of(
        prompt_ids=torch.full((4, 1), ids[0]),
        prompt_mask=torch.ones(4, 1, dtype=torch.long),
        completion_ids=torch.tensor([ids] * 4),
        completion_mask=torch.ones(4, 4, dtype=torch.long),
        model_mask=torch.tensor([[sign == "m" for sign in row] for row in rows]),
        group_size=4,
        tasks=[TaskRow("q", "Who?", ["bora"])] * 4,
    )
    assert collect_signals(batch, METHODS["gigpo"], tokenizer).observations == list(rows.values())
