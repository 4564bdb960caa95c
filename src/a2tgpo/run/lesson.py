"""Say in a few lines what a run's policy learned: a sentence that reads the final table, and curves of text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from a2tgpo.evaluate.questions import Summary
from a2tgpo.evaluate.statistics import Proportion
from a2tgpo.gold import read_aliases
from a2tgpo.pipeline.rollout_log import read_rollouts
from a2tgpo.run.directory import MODES
from a2tgpo.text_match import exact_match

_MARKS = "▁▂▃▄▅▆▇█"
_MOST_MARKS = 20
_MOST_BYTES = 200_000_000
"""A larger log would take a minute to read; its curves are for `a2tgpo report`."""


def read_table(summaries: Mapping[str, Summary]) -> str:
    """Put the table of a run into one sentence: right answers in either mode, those at most hops, and searches.

    Args:
        summaries: of "before, greedy" and so on. Nothing is said without those of "after", nor of environments that
            do not say what is right.
    """
    if "after, greedy" not in summaries or any(one.correct is None for one in summaries.values()):
        return ""

    def both(share: Callable[[Summary], Proportion | None]) -> str:
        changes = []
        for mode in reversed(MODES):
            before, after = (share(summaries[f"{when}, {mode}"]) for when in ("before", "after"))
            assert before is not None and after is not None, "asked the same questions, of which some are right"
            changes.append(f"{before.value:.0%} → {after.value:.0%} ({mode})")
        return ", ".join(changes)

    last = summaries["after, greedy"]
    asked = "questions" if last.measure == "exact_match" else "episodes"
    assert last.correct is not None, "refused above"
    said = f"Reading: of {last.correct.total} held-out {asked}, {both(lambda one: one.correct)} are right"
    deepest = max(last.by_hops, default=0)
    if deepest > 1:
        said += f"; of those with {deepest} hops, {both(lambda one: one.by_hops.get(deepest))}"
    before, after = (summaries[f"{when}, sampled"].searches for when in ("before", "after"))
    return f"{said}. Calls per rollout, sampled: {before:.2f} → {after:.2f}."


def draw_training(rollouts: Path) -> list[str]:
    """Draw the share of right rollouts over training as lines of text, one for each number of hops.

    Args:
        rollouts: the folder of the run's rollout log; several batches share a mark where there are more than twenty,
            and a log of more than 200 MB is not drawn.
    """
    paths = sorted(rollouts.glob("step_*.jsonl"))
    if sum(path.stat().st_size for path in paths) > _MOST_BYTES:
        return []
    batches = [_right_by_hops(path) for path in paths]
    size = -(-len(batches) // _MOST_MARKS) or 1
    lines = []
    for hops in sorted({hops for batch in batches for hops in batch}):
        pooled = (
            [right for batch in batches[start : start + size] for right in batch.get(hops, ())]
            for start in range(0, len(batches), size)
        )
        shares = [fmean(rights) for rights in pooled if rights]
        lines.append(f"{_label(hops):<9}{draw_shares(shares)}  {shares[0]:.2f} → {shares[-1]:.2f}")
    return lines and ["Right rollouts over training, ▁ 0 to █ 1:", *lines]


def draw_shares(shares: Sequence[float]) -> str:
    """Draw shares in [0, 1] as one block each, of eight heights."""
    return "".join(_MARKS[min(int(share * len(_MARKS)), len(_MARKS) - 1)] for share in shares)


def _label(hops: int) -> str:
    return f"{hops} hop{'s' * (hops != 1)}" if hops else "all"


def _right_by_hops(path: Path) -> dict[int, list[bool]]:
    """Return which rollouts of a batch were right, by hops; under 0 where the data do not say."""
    right: dict[int, list[bool]] = defaultdict(list)
    for record in read_rollouts(path):
        if record.answer is not None:
            aliases = read_aliases(record.answer, f"rollout {record.id!r}")
            right[int(record.hops or 0)].append(exact_match(record.prediction, aliases))
    return right
