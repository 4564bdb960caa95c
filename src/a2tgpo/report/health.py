"""Say what is wrong with a run, so that a broken run looks broken."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from a2tgpo.report.logged_rollout import ENDED_WELL, Rollout
from a2tgpo.report.run_data import RunData
from a2tgpo.report.turn_groups import NOISE, turn_groups

_ENDED_BADLY = 0.5
_EQUAL_REWARDS = 2 / 3


@dataclass(frozen=True)
class Finding:
    """Hold one sentence about a run; `level` is "bad" for a fault and "note" for what a reader has to know."""

    level: str
    text: str


def findings(run: RunData) -> list[Finding]:
    """Return what a reader of the run must know first, faults before notes."""
    rollouts = [rollout for batch in run.batches for rollout in batch.rollouts]
    found = [
        *_metrics(run),
        *(_endings(rollouts) if rollouts else ()),
        *(_numbers(rollouts) if rollouts else ()),
        *_batches(run),
        *_state(run, rollouts),
        *_credit(run),
        *(Finding("note", notice) for notice in run.notices),
    ]
    return sorted(found, key=lambda finding: finding.level != "bad")


def endings(run: RunData) -> dict[str, int]:
    """Count the rollouts by how they ended; "not logged" where another loop made them."""
    counts = Counter(r.termination or "not logged" for batch in run.batches for r in batch.rollouts)
    return dict(counts.most_common())


def _metrics(run: RunData) -> list[Finding]:
    rows: dict[str, list[int]] = {}
    numbers = {name for row in run.metrics for name, value in row.items() if isinstance(value, int | float)}
    for row in run.metrics:
        for name in numbers & row.keys():
            if not _is_number(row[name]):
                rows.setdefault(name, []).append(row["step"])
    never = {
        name: [row["step"] for row in run.metrics if name in row]
        for name in ("loss", "grad_norm", "reward")
        if name not in numbers
    }
    rows |= {name: steps for name, steps in never.items() if steps}
    return [
        Finding(
            "bad",
            f"{name} is not a number at {_of(len(steps), _logged(run, name), 'logged step')}, first at step {steps[0]}",
        )
        for name, steps in sorted(rows.items())
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _logged(run: RunData, name: str) -> int:
    return sum(name in row for row in run.metrics)


def _endings(rollouts: list[Rollout]) -> list[Finding]:
    n = len(rollouts)
    failed = [rollout for rollout in rollouts if rollout.termination == "tool_failed"]
    found = []
    if failed:
        why = next((f": {rollout.reason}" for rollout in failed if rollout.reason), "")
        found.append(Finding("bad", f"the tool failed in {_of(len(failed), n, 'rollout')}{why}"))
    known = Counter(rollout.termination for rollout in rollouts if rollout.termination is not None)
    for ending, count in known.most_common():
        if ending not in (*ENDED_WELL, "tool_failed") and count > _ENDED_BADLY * n:
            found.append(Finding("bad", f"{_of(count, n, 'rollout')} ended {ending.replace('_', ' ')}"))
    return found


def _numbers(rollouts: list[Rollout]) -> list[Finding]:
    found = []
    if broken := sum(not rollout.finite for rollout in rollouts):
        text = f"a gain, likelihood, advantage or reward is not a number in {_of(broken, len(rollouts), 'rollout')}"
        found.append(Finding("bad", text))
    if excluded := sum(not rollout.valid for rollout in rollouts):
        found.append(Finding("note", f"{_of(excluded, len(rollouts), 'rollout')} were excluded from the loss"))
    return found


def _batches(run: RunData) -> list[Finding]:
    sizes = Counter(len(batch.rollouts) for batch in run.batches)
    if len(sizes) < 2:
        return []
    usual = sizes.most_common(1)[0][0]
    short = [batch for batch in run.batches if len(batch.rollouts) < usual]
    return [
        Finding("bad", f"the batch of step {batch.step} holds {len(batch.rollouts)} rollouts, others {usual}: cut off")
        for batch in short[:3]
    ]


def _state(run: RunData, rollouts: list[Rollout]) -> list[Finding]:
    if run.finished:
        return []
    step, planned = run.step, run.config.get("max_steps")
    if not step:
        return [Finding("note", "no step has been logged: the run has only begun, or died before its first update")]
    if isinstance(planned, int) and 0 < planned <= step:
        found = [Finding("note", f"all {planned} steps are logged, and there is no final table")]
    else:
        steps = f"step {step} of {planned}" if isinstance(planned, int) and planned > 0 else f"step {step}"
        found = [Finding("bad", f"not finished: {steps} was logged last, and there is no final table")]
    if not rollouts:
        found.append(Finding("note", "no rollouts were logged"))
    return found


def _credit(run: RunData) -> list[Finding]:
    found = []
    noisy = turns = equal = groups = 0
    for batch in run.batches:
        for group in turn_groups(batch).values():
            for at in group:
                turns += at.n
                noisy += at.n if at.noise else 0
        for _, members in batch.groups():
            rewards = {round(rollout.reward, 6) for rollout in members if rollout.valid and rollout.reward is not None}
            groups += 1
            equal += len(rewards) < 2
    if turns and noisy:
        text = f"{noisy / turns:.1%} of the process turns lie in turn groups with σ below {NOISE}"
        found.append(Finding("note", f"{text}: their normalised gains are noise"))
    if groups and equal > _EQUAL_REWARDS * groups:
        found.append(
            Finding("note", f"all rollouts earn the same in {_of(equal, groups, 'question')}: no outcome term there")
        )
    return found


def _of(part: int, whole: int, name: str) -> str:
    return f"{part:,} of {whole:,} {name}{'' if whole == 1 else 's'}"
