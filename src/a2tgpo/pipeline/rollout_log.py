"""Write the rollout log, and read it: one schema, also that of `a2tgpo report`.

    rollouts/step_000012.jsonl        a RolloutRecord per rollout generated after 12 updates
    rollouts/updates_000012.jsonl     an UpdateRecord per rollout and update that learned from it

Where several processes write, files end in `.rankR.jsonl`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.core import turn_mean
from a2tgpo.files import whole_text
from a2tgpo.methods import Method
from a2tgpo.pipeline.batch import RolloutBatch, TaskRow
from a2tgpo.pipeline.collective import Collective
from a2tgpo.pipeline.credit import BatchCredit
from a2tgpo.pipeline.turn_signals import TurnSignals
from a2tgpo.rollout.types import Rollout

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoggedSegment:
    """Hold a run of tokens by one author: the policy's turn (from 0), or the environment (−1)."""

    turn: int
    text: str
    ids: list[int]


@dataclass(frozen=True)
class LoggedCall:
    """Hold one tool call: its arguments as written, the ids of the passages shown, its seconds where they were taken,
    the tool, and whether the environment refused."""

    query: str
    passage_ids: list[str]
    seconds: float | None = None
    tool: str = "search"
    refused: bool = False


@dataclass(frozen=True)
class RolloutRecord:
    """Hold one rollout as logged: what was said, and what each turn earned. Lists of numbers are per turn, those of
    gains per process turn.

    A number that is not finite is logged as null and read back as NaN.

    Attributes:
        step: updates done when it was generated.
        group: the prompt's number among those of the file.
        prompt: text or chat messages; None where an environment told the policy what to do.
        answer: gold answer or aliases, as the data set has them; None where it has none.
        hops: facts that the answer rests on, where the data set says.
        termination, reason, prediction, calls: from our agent loop; None and empty for another loop's rollouts.
        call_seconds: of each call, from the turn's end to its answer; apart from the rest, which a seeded run repeats.
        observed: what the environment said first, at the end of the prompt; None where it said nothing.
        success: whether the environment calls the episode solved; None where it does not say.
        reward: None where no reward applied.
        valid: false where the rollout was excluded from the loss.
        clip_low, clip_high: bounds of the ratio.
        likelihood: at each turn boundary; None where nothing scored it.
        gain, normalized_gain: None where the method reads none.
        owned: turns whose tokens this rollout carries in the loss; None where rollouts share no turn.
        notes: what a judge or another signal said of each process turn; None where it said nothing.
        unscored: why the turns' signal had no numbers, which excluded the rollout from the loss; None where it had.
    """

    step: int
    group: int
    segments: list[LoggedSegment]
    advantage: list[float]
    clip_low: list[float]
    clip_high: list[float]
    clip_scale: list[float] | None = None
    id: Any = None
    prompt: Any = None
    answer: Any = None
    hops: int | None = None
    reward: float | None = None
    valid: bool = True
    termination: str | None = None
    reason: str = ""
    prediction: str | None = None
    calls: list[LoggedCall] = field(default_factory=list)
    call_seconds: list[float] | None = None
    observed: str | None = None
    success: bool | None = None
    likelihood: list[float] | None = None
    gain: list[float] | None = None
    normalized_gain: list[float] | None = None
    owned: list[bool] | None = None
    notes: list[str] | None = None
    unscored: str | None = None

    def to_line(self) -> str:
        """Return the record as a line of JSON, without its end; what is None is left out."""
        calls = [dict(vars(call)) for call in self.calls]
        if self.call_seconds is not None:
            for call in calls:
                del call["seconds"]
        written = vars(self) | {"segments": [vars(segment) for segment in self.segments], "calls": calls}
        return _json({name: value for name, value in written.items() if value is not None or name in _ALWAYS})

    @classmethod
    def from_line(cls, line: str) -> RolloutRecord:
        """Read a line; keys that a later version may have added are left out.

        Raises:
            ValueError, KeyError, TypeError: a line that is no such record.
        """
        found = {name: value for name, value in json.loads(line).items() if name in cls.__dataclass_fields__}
        found["segments"] = [
            LoggedSegment(int(s["turn"]), str(s["text"]), [int(token) for token in s["ids"]]) for s in found["segments"]
        ]
        calls, seconds = found.get("calls") or (), found.get("call_seconds") or ()
        found["calls"] = [_call(call, took) for call, took in itertools.zip_longest(calls, seconds[: len(calls)])]
        if found.get("notes") is not None:
            found["notes"] = [str(note) for note in found["notes"]]
        found |= {name: _floats(found[name]) for name in _FLOATS if found.get(name) is not None}
        if missing := [name for name in ("advantage", "clip_low", "clip_high") if found.get(name) is None]:
            raise ValueError(f"a rollout without {', '.join(missing)}")
        return cls(**found)


_ALWAYS = ("id", "prompt", "answer", "reward")
_FLOATS = ("advantage", "clip_scale", "clip_low", "clip_high", "likelihood", "gain", "normalized_gain")


def _call(call: Mapping[str, Any], took: float | None) -> LoggedCall:
    seconds = call.get("seconds", took)
    seconds = took if seconds is None else seconds
    ids = [str(id) for id in call["passage_ids"]]
    tool, refused = str(call.get("tool", "search")), bool(call.get("refused", False))
    return LoggedCall(str(call["query"]), ids, None if seconds is None else float(seconds), tool, refused)


@dataclass(frozen=True)
class UpdateRecord:
    """Hold how one update saw one rollout; of several lines for a row the last is the latest update.

    Attributes:
        row: the rollout's line in the file of rollouts, from 0.
        step: the update, from 1.
        ratio: exp of the mean of log π/π_old over each turn.
        clipped: whether a bound held back any of the turn's tokens.
        log_ratio: log π/π_old of each token the policy wrote, in order.
    """

    row: int
    step: int
    ratio: list[float]
    clipped: list[bool]
    log_ratio: list[float] = field(default_factory=list)

    def to_line(self) -> str:
        """Return the record as a line of JSON, without its end."""
        return _json(vars(self))

    @classmethod
    def from_line(cls, line: str) -> UpdateRecord:
        """Read a line.

        Raises:
            ValueError, KeyError, TypeError: a line that is no such record.
        """
        found = json.loads(line)
        log_ratio = _floats(found.get("log_ratio") or ())
        clipped = [bool(clipped) for clipped in found["clipped"]]
        return cls(int(found["row"]), int(found["step"]), _floats(found["ratio"]), clipped, log_ratio)


def read_rollouts(path: Path) -> Iterator[RolloutRecord]:
    """Yield the rollouts of a file that is whole.

    Raises:
        ValueError, KeyError, TypeError: a line is none.
    """
    with path.open(encoding="utf-8") as lines:
        yield from map(RolloutRecord.from_line, lines)


def updates_file(rollouts: Path) -> Path:
    """Return the file of updates beside a file of rollouts."""
    return rollouts.with_name(rollouts.name.replace("step_", "updates_", 1))


class RolloutLog:
    """Write the rollouts and updates of a run into `folder`.

    Batches generated within one step share its file; a file that an earlier, interrupted run left is replaced.
    """

    def __init__(self, folder: str | Path, collective: Collective) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rank = collective.rank
        self._suffix = f".rank{collective.rank}" if collective.size > 1 else ""
        self._path: Path | None = None
        self._groups = self._rows = 0

    def write(
        self,
        batch: RolloutBatch,
        credit: BatchCredit,
        method: Method,
        tokenizer: PreTrainedTokenizerBase,
        step: int,
        signals: TurnSignals | None = None,
    ) -> range:
        """Write this process's rollouts of one batch.

        Args:
            credit: of the joined batch.
            step: updates done so far.
            signals: of this process, for what they say in words.

        Returns:
            Their lines in the file, from 0.
        """
        path = self.folder / f"step_{step:06d}{self._suffix}.jsonl"
        again = path == self._path
        if not again:
            updates_file(path).unlink(missing_ok=True)
            self._groups = self._rows = 0
        n_rows = len(batch.tasks)
        first_row, first_group = self._rank * n_rows, self._groups
        local = credit.rows(first_row, first_row + n_rows)
        with path.open("a" if again else "w", encoding="utf-8") as file:
            for i, (task, record, segments) in enumerate(
                zip(batch.tasks, batch.records, batch.segments(), strict=True)
            ):
                logged = RolloutRecord(
                    step=step,
                    group=first_group + (first_row + i) // batch.group_size,
                    **_asked(task),
                    segments=[LoggedSegment(s.turn, tokenizer.decode(s.ids), s.ids) for s in segments],
                    **_ending(record),
                    **_earned(local, i, method),
                    **_said(signals, i),
                )
                file.write(logged.to_line() + "\n")
        lines = range(self._rows, self._rows + n_rows)
        self._path, self._rows = path, lines.stop
        self._groups = first_group + len(credit.outcome) // batch.group_size
        return lines

    @torch.no_grad()
    def write_updates(
        self,
        rows: Int[Tensor, " B"],
        step: int,
        log_ratio: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
        clipped_turns: Bool[Tensor, "B T"],
    ) -> None:
        """Append what one micro-batch of update `step` found for the rollouts in lines `rows` of the latest file."""
        assert self._path is not None, "an update learns from a batch that was logged"
        ratio = turn_mean(log_ratio, turn_ids, clipped_turns.size(1)).exp().tolist()
        n_turns = (turn_ids.amax(dim=1) + 1).tolist()
        written = (turn_ids >= 0).tolist()
        clipped, values = clipped_turns.tolist(), log_ratio.tolist()
        with updates_file(self._path).open("a", encoding="utf-8") as file:
            for i, row in enumerate(rows.tolist()):
                logged = UpdateRecord(
                    row=row,
                    step=step,
                    ratio=[round(value, 6) for value in ratio[i][: n_turns[i]]],
                    clipped=clipped[i][: n_turns[i]],
                    log_ratio=[round(v, 5) for v, mine in zip(values[i], written[i], strict=True) if mine],
                )
                file.write(logged.to_line() + "\n")


def _asked(task: TaskRow) -> dict[str, Any]:
    return {"id": task.id, "prompt": task.prompt, "answer": list(task.answers) or None, "hops": task.hops}


def _ending(record: Rollout | None) -> dict[str, Any]:
    if record is None:
        return {}
    return {
        "termination": record.termination,
        "reason": record.reason,
        "prediction": record.answer,
        "calls": [
            LoggedCall(call.query, list(call.passage_ids), None, call.tool, call.refused) for call in record.calls
        ],
        "call_seconds": [round(call.seconds, 4) for call in record.calls],
        "observed": record.observed or None,
        "success": record.success,
    }


def _earned(local: BatchCredit, i: int, method: Method) -> dict[str, Any]:
    n_turns, n_process = int(local.n_turns[i]), int(local.is_process[i].sum())
    scale = local.clip_scale[i, :n_turns]
    earned = {
        "reward": None if local.outcome[i].isnan() else local.outcome[i].item(),
        "valid": bool(local.valid[i]),
        "advantage": local.advantage[i, :n_turns].tolist(),
        "clip_scale": scale.tolist(),
        "clip_low": (1 - scale * method.eps_low).tolist(),
        "clip_high": (1 + scale * method.eps_high).tolist(),
    }
    if local.likelihood is not None:
        earned["likelihood"] = local.likelihood[i, : n_process + 1].tolist()
    if local.gain is not None:
        earned["gain"] = local.gain[i, :n_process].tolist()
        earned["normalized_gain"] = local.normalized_gain[i, :n_process].tolist()
    if local.shared is not None:
        earned["owned"] = (local.shared.weight[i, :n_turns] > 0).tolist()
    return earned


def _said(signals: TurnSignals | None, i: int) -> dict[str, Any]:
    if signals is None or signals.unscored is None or signals.notes is None:
        return {}
    return {"notes": signals.notes[i] or None, "unscored": signals.unscored[i]}


def _json(record: Mapping[str, Any]) -> str:
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain)
    except (ValueError, TypeError):  # a number or a key that JSON does not have: looked for only then
        line = json.dumps(_strict(record), ensure_ascii=False, allow_nan=False, default=str)
    return whole_text(line)  # an environment may say what no file can hold


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _strict(value: Any) -> Any:
    """Return `value` with null in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _strict(inner) for name, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list | tuple) else value


def _floats(values: Sequence[float | None]) -> list[float]:
    if isinstance(values, str):
        raise TypeError(f"numbers expected, not the text {values!r}")
    return [math.nan if value is None else float(value) for value in values]
