"""Pack rollouts and evaluations for the page: one compressed block of JSON for each thing it opens.

A block is base64 of gzip of JSON, so nothing a model or a passage says can end the script element that holds it, and
the page decodes the texts of a batch only when somebody looks at it.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from a2tgpo.evaluate.outcome import Outcome, measure_of
from a2tgpo.evaluate.questions import Summary
from a2tgpo.evaluate.statistics import Difference
from a2tgpo.files import whole_text
from a2tgpo.redact import redact
from a2tgpo.report.logged_rollout import Batch, Rollout
from a2tgpo.report.run_data import RunData
from a2tgpo.report.turn_groups import turn_groups

DISAGREE = 0.1
"""A rise or fall of the gold answer's likelihood over a rollout that its outcome should have followed."""


@dataclass
class Blocks:
    """Hold packed JSON by name."""

    packed: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> str:
        """Pack `value` under `name` and return the name."""
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self.packed[name] = base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
        return name

    @property
    def size(self) -> int:
        return sum(map(len, self.packed.values()))


def plain(value: Any) -> Any:
    """Return `value` as strict JSON without secrets: six digits of a float, null for one that is not finite, U+FFFD for
    half a surrogate pair."""
    if isinstance(value, str):
        return redact(whole_text(value))
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        # Token ids are most of a page; a list of integers needs no look at each.
        return value if value and all(type(item) is int for item in value) else [plain(item) for item in value]
    # A recipe may hold what YAML reads as a date.
    return value if value is None or isinstance(value, int) else plain(str(value))


def pack_rollouts(run: RunData, number: int, shown: list[Batch], blocks: Blocks) -> None:
    """Pack an index of all rollouts shown, a block of texts per batch, and the texts of single tokens."""
    index: list[dict[str, Any]] = []
    groups: dict[str, Any] = {}
    files: list[str] = []
    used: set[int] = set()
    for batch in shown:
        seen: Counter[int] = Counter()
        for row, rollout in enumerate(batch.rollouts):
            seen[rollout.group] += 1
            if rollout.file not in files:
                files.append(rollout.file)
            place = {"step": batch.step, "row": row, "number": seen[rollout.group]}
            index.append(place | {"file": files.index(rollout.file), "line": rollout.line} | _numbers(rollout))
        groups |= {f"{batch.step}/{group}": list(map(asdict, at)) for group, at in turn_groups(batch).items()}
        blocks.add(f"texts-{number}-{batch.step}", _texts(batch))
        used |= {token for rollout in batch.rollouts for segment in rollout.segments for token in segment.ids}
    blocks.add(f"index-{number}", {"rollouts": index, "groups": groups, "files": files})
    if run.token_texts is not None:
        blocks.add(f"tokens-{number}", {token: run.token_texts(token) for token in sorted(used)})


def _numbers(rollout: Rollout) -> dict[str, Any]:
    rise = rollout.likelihood[-1] - rollout.likelihood[0] if rollout.likelihood else 0.0
    update = rollout.update
    return {
        "group": rollout.group,
        "id": rollout.id,
        "question": rollout.question,
        "observed": rollout.observed,
        "answer": rollout.answer,
        "hops": rollout.hops,
        "termination": rollout.termination,
        "reason": rollout.reason,
        "prediction": rollout.prediction,
        "reward": rollout.reward,
        "valid": rollout.valid,
        "unscored": rollout.unscored,
        "success": rollout.success,
        "measure": rollout.measure,
        "correct": rollout.correct,
        "finite": rollout.finite,
        "disagrees": rollout.valid and (rise < -DISAGREE if rollout.correct else rise > DISAGREE),
        "tokens": [rollout.n_policy_tokens, rollout.n_tokens],
        "calls": len(rollout.calls),
        "last_call": f"{rollout.calls[-1].tool} {rollout.calls[-1].query}" if rollout.calls else None,
        "likelihood": rollout.likelihood,
        "gain": rollout.gain,
        "normalized": rollout.normalized_gain,
        "accumulated": rollout.terms.accumulated if rollout.terms else None,
        "outcome": rollout.terms.outcome if rollout.terms else None,
        "advantage": rollout.advantage,
        "low": rollout.clip_low,
        "high": rollout.clip_high,
        "update": {"step": update.step, "ratio": update.ratio, "clipped": update.clipped} if update else None,
    }


def _texts(batch: Batch) -> dict[str, Any]:
    """Return the segments, each distinct one once: the rollouts of a prompt read the same passages."""
    number: dict[tuple[str, tuple[int, ...]], int] = {}
    rollouts = [
        [[segment.turn, number.setdefault((segment.text, tuple(segment.ids)), len(number))] for segment in r.segments]
        for r in batch.rollouts
    ]
    return {
        "segments": [{"text": text, "ids": list(ids)} for text, ids in number],
        "rollouts": rollouts,
        "calls": [[asdict(call) for call in rollout.calls] for rollout in batch.rollouts],
        "notes": [rollout.notes for rollout in batch.rollouts],
        "log_ratio": [rollout.update.log_ratio if rollout.update else [] for rollout in batch.rollouts],
    }


def pack_evaluation(outcomes: list[Outcome], name: str, blocks: Blocks, *, texts: bool) -> dict[str, Any]:
    """Pack outcomes, with or without the texts of their rollouts, and return their summary."""
    left_out = {} if texts else {"text": "The texts of all evaluated questions would make this page too large."}
    blocks.add(name, [asdict(outcome) | left_out for outcome in outcomes])
    summary = Summary.of(outcomes)
    return {
        "block": name,
        "n": len(outcomes),
        "gold": any(o.answer for o in outcomes),
        "measure": summary.measure,
        **summary.as_json(),
    }


def flips(first: list[Outcome], second: list[Outcome]) -> dict[str, Any] | None:
    """Compare two evaluations on the questions of both: the difference of their scores, and the p of the paired t test;
    None where they share no question, or no measure."""
    if measure_of(first) != measure_of(second):
        return None
    theirs = {(outcome.dataset, outcome.id, outcome.sample): outcome.score for outcome in second}
    pairs = [
        (theirs[key], outcome.score)
        for outcome in first
        if (key := (outcome.dataset, outcome.id, outcome.sample)) in theirs
    ]
    if not pairs:
        return None
    difference = Difference.between(*zip(*pairs, strict=True))
    return {"n": len(pairs), **asdict(difference.mean), "p": difference.p}
