"""What a run says below its table: one sentence of the numbers in it, and the share of right rollouts as text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from a2tgpo.evaluate.questions import Summary
from a2tgpo.evaluate.statistics import Proportion
from a2tgpo.run.lesson import draw_shares, draw_training, read_table


def summary(right: int, deep: int | None, searches: float) -> Summary:
    """`right` of 20, `deep` of 10 where questions say how many hops they have."""
    by_hops = {} if deep is None else {1: Proportion(right - deep, 10), 3: Proportion(deep, 10)}
    return Summary("exact_match", Proportion(right, 20), None, by_hops, 1.0, searches, terminations={})


def summaries(deep: bool) -> dict[str, Summary]:
    """A run that got from 5 and 4 to 15 and 12 of 20."""
    return {
        "before, greedy": summary(5, 1 if deep else None, 1.0),
        "before, sampled": summary(4, 0 if deep else None, 1.25),
        "after, greedy": summary(15, 6 if deep else None, 2.0),
        "after, sampled": summary(12, 4 if deep else None, 2.5),
    }


def test_the_table_is_read_in_one_sentence() -> None:
    """Right answers in both modes, those at most hops, and searches, before and after; hops only where there are any;
    nothing for a run without updates."""
    both = "Reading: of 20 held-out questions, 20% → 60% (sampled), 25% → 75% (greedy) are right"
    searches = ". Calls per rollout, sampled: 1.25 → 2.50."
    assert read_table(summaries(deep=True)) == (
        f"{both}; of those with 3 hops, 0% → 40% (sampled), 10% → 60% (greedy){searches}"
    )
    assert read_table(summaries(deep=False)) == both + searches
    before = {name: one for name, one in summaries(deep=True).items() if name.startswith("before")}
    assert read_table(before) == ""
    played = {name: replace(one, measure="success") for name, one in summaries(deep=False).items()}
    assert read_table(played) == both.replace("questions", "episodes") + searches
    rewarded = {name: replace(one, measure="reward", correct=None) for name, one in played.items()}
    assert read_table(rewarded) == ""


def log(folder: Path, batch: int, rollouts: list[tuple[int | None, str | None]]) -> None:
    """Write the rollouts of a batch, each of so many hops and with such an answer where 'yes' is right."""
    empty = {"step": batch, "group": 0, "segments": [], "advantage": [], "clip_low": [], "clip_high": []}
    rows = [{**empty, "answer": ["yes"], "hops": hops, "prediction": said} for hops, said in rollouts]
    (folder / f"step_{batch:06d}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_training_is_drawn_by_hops(tmp_path: Path) -> None:
    """A line for each number of hops: a mark for every batch that had one, and the first and last share."""
    log(tmp_path, 0, [(1, "yes"), (1, "no"), (3, "no"), (3, None)])
    log(tmp_path, 4, [(1, "Yes."), (1, "yes")])
    log(tmp_path, 8, [(1, "yes"), (3, "yes"), (3, "no"), (3, "no"), (3, "no")])
    assert draw_training(tmp_path) == [
        "Right rollouts over training, ▁ 0 to █ 1:",
        "1 hop    ▅██  0.50 → 1.00",
        "3 hops   ▁▃  0.00 → 0.25",
    ]


def test_long_runs_share_marks(tmp_path: Path) -> None:
    """Of 50 batches, three share a mark, all rollouts counting alike; without hops there is one line; without rollouts
    none."""
    for batch in range(50):
        log(tmp_path, batch, [(None, "yes")] * (batch >= 26) + [(None, "no")])
    _, line = draw_training(tmp_path)
    assert line == f"all      {'▁' * 8}{'▃'}{'▅' * 8}  0.00 → 0.50"
    assert draw_training(tmp_path / "nothing") == []


def test_a_log_too_large_to_read_at_once_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit in bytes nothing is read and nothing drawn."""
    log(tmp_path, 0, [(1, "yes")])
    assert draw_training(tmp_path)
    monkeypatch.setattr("a2tgpo.run.lesson._MOST_BYTES", 10)
    assert draw_training(tmp_path) == []


def test_shares_are_eight_heights() -> None:
    """0 and 1 are the lowest and the highest, and none is out of reach."""
    assert draw_shares([0.0, 0.124, 0.126, 0.5, 0.874, 0.999, 1.0]) == "▁▁▂▅▇██"
