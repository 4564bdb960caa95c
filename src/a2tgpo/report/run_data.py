"""Read run directories, whatever state they are in.

A run that is still going, or was killed, ends in half a line; that line is left out and said so. Nothing here fails on
what a run has not written yet.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from a2tgpo.errors import DataError
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.files import UNFINISHED
from a2tgpo.pipeline.rollout_log import RolloutRecord, UpdateRecord, updates_file
from a2tgpo.redact import redact_settings, remember_secrets, secrets_in
from a2tgpo.report.logged_rollout import Batch, Rollout
from a2tgpo.run.directory import RunDirectory

_ROLLOUTS = re.compile(r"step_(\d+)(?:\.rank(\d+))?\.jsonl")

T = TypeVar("T")


@dataclass
class RunData:
    """Hold what one run directory has. `notices` says in sentences what could not be read."""

    path: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    evaluations: dict[str, list[Outcome]] = field(default_factory=dict)
    token_texts: Callable[[int], str] | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Tell whether the run wrote its final table."""
        return RunDirectory(self.path).finished

    @property
    def step(self) -> int:
        """Return the last step logged, 0 before the first."""
        return max([0, *(row["step"] for row in self.metrics)])

    @property
    def n_rollouts(self) -> int:
        return sum(len(batch.rollouts) for batch in self.batches)

    @property
    def in_logarithms(self) -> bool:
        """Tell whether likelihoods are mean log-probabilities, which lie below 0, and not probabilities."""
        return any(v < 0 for batch in self.batches for rollout in batch.rollouts for v in rollout.likelihood)

    @property
    def signal(self) -> str:
        """Name what judges the turns: "gain" where likelihoods were scored, "" where nothing does."""
        rollouts = [rollout for batch in self.batches for rollout in batch.rollouts]
        if any(rollout.likelihood for rollout in rollouts):
            return "gain"
        if not any(rollout.gain for rollout in rollouts):
            return ""
        named = {"reward_model": "step reward", "environment": "turn reward"}
        if self.config.get("turn_signal") == "judge":
            return "judge's score"
        return named.get(str(self.config.get("process_signal")), "turn signal")


def read_runs(paths: list[Path]) -> list[RunData]:
    """Read runs in order and name them by the shortest ends of their paths that tell them apart.

    Raises:
        DataError: a path that is no run directory.
    """
    return [_read_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _read_run(path: Path, name: str) -> RunData:
    directory = RunDirectory(path)
    if not directory.config.exists() and not directory.metrics.exists() and not directory.rollouts.is_dir():
        raise DataError(
            f"{str(path)!r} holds no run: expected config.yaml, metrics.jsonl or rollouts/, as `a2tgpo train` and "
            "`a2tgpo eval RECIPE` write them"
        )
    run = RunData(path, name)
    run.config = _config(directory.config, run.notices)
    run.metrics = list(_lines(directory.metrics, _metrics_row, run.notices))
    run.batches = _batches(directory.rollouts, run.notices)
    for file in sorted((path / "eval").glob("*.jsonl"), key=lambda file: (file.stem.startswith("after"), file.stem)):
        if file.name.startswith(UNFINISHED):
            continue
        if outcomes := list(_lines(file, _outcome, run.notices)):
            run.evaluations[file.stem] = outcomes
    run.token_texts = _token_texts(path, run.notices)
    return run


def _names(paths: list[Path]) -> list[str]:
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise DataError(f"the same run is given twice: {', '.join(map(str, paths))}; give each once")


def _config(path: Path, notices: list[str]) -> dict[str, Any]:
    if not path.exists():
        notices.append("config.yaml is missing: terms of the advantage are those of the package's defaults")
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
        json.dumps(config, default=str, skipkeys=True)  # refuses a value that holds itself
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        notices.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}")
        return {}
    if not isinstance(config, dict):
        return {}
    named = {str(key): value for key, value in config.items()}
    remember_secrets(secrets_in(named))
    return redact_settings(named)


def _lines(path: Path, parse: Callable[[str, int], T], notices: list[str]) -> Iterator[T]:
    """Yield what `parse` makes of each line and its number, from 1; lines that are no such record are counted."""
    if not path.exists():
        return
    broken = 0
    # Bytes that are cut in the middle of a character belong to the broken last line.
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield parse(line, number)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, IndexError, RecursionError):
            broken += 1
    if broken:
        lines = "1 line could not be read and is" if broken == 1 else f"{broken} lines could not be read and are"
        notices.append(f"{path.parent.name}/{path.name}: {lines} left out")


def _outcome(line: str, _: int) -> Outcome:
    outcome = Outcome(**json.loads(line))
    texts = [outcome.id, outcome.question, outcome.dataset, outcome.termination, outcome.reason, outcome.text]
    texts += [*outcome.answer, *outcome.queries, outcome.prediction or ""]
    numbers = [outcome.searches, outcome.policy_tokens, outcome.total_tokens, outcome.sample]
    numbers += [] if outcome.hops is None else [outcome.hops]
    right = isinstance(outcome.correct, bool) and isinstance(outcome.answer, list)
    right = right and (outcome.success is None or isinstance(outcome.success, bool))
    right = right and (outcome.reward is None or math.isfinite(outcome.reward))
    if not (right and all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)):
        raise TypeError("not an outcome")
    return outcome


def _metrics_row(line: str, _: int) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    return row | {"step": int(row["step"])}


def _batches(folder: Path, notices: list[str]) -> list[Batch]:
    files: dict[int, list[tuple[int, Path]]] = {}
    for file in folder.glob("step_*.jsonl") if folder.is_dir() else ():
        if match := _ROLLOUTS.fullmatch(file.name):
            files.setdefault(int(match[1]), []).append((int(match[2] or 0), file))
    batches = []
    for step in sorted(files):
        rollouts = [rollout for _, file in sorted(files[step]) for rollout in _rollouts(file, notices)]
        if rollouts:
            batches.append(Batch(step + 1, rollouts))
    return batches


def _rollouts(file: Path, notices: list[str]) -> list[Rollout]:
    name = f"{file.parent.name}/{file.name}"
    rollouts = list(_lines(file, lambda line, number: Rollout.of(RolloutRecord.from_line(line), name, number), notices))
    by_line = {rollout.line - 1: rollout for rollout in rollouts}
    # Written later, by the update steps the batch was used in; the last use of a rollout wins.
    for update in _lines(updates_file(file), lambda line, _: UpdateRecord.from_line(line), notices):
        if update.row in by_line:
            by_line[update.row].update = update
    return rollouts


def _token_texts(root: Path, notices: list[str]) -> Callable[[int], str] | None:
    """Return a function from a token id to its text, of whichever tokenizer the run has saved by now."""
    from tokenizers import Tokenizer

    folders = [root / "model", root / "warm_start", *sorted((root / "checkpoints").glob("checkpoint-*"))]
    for file in (folder / "tokenizer.json" for folder in folders):
        if not file.exists():
            continue
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            notices.append(f"{file.parent.name}/{file.name} cannot be read: {error}")
        else:
            return lambda token: _decode(tokenizer, token)
    return None


def _decode(tokenizer: Any, token: int) -> str:
    """Return the text of `token`; empty where no vocabulary can hold it."""
    try:
        return str(tokenizer.decode([token], skip_special_tokens=False))
    except OverflowError:
        return ""
