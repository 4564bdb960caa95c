"""Keep the answers of a run on disk: appended one by one, never lost, never mixed with those of other settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from a2tgpo.errors import DataError, RecipeError
from a2tgpo.evaluate.outcome import Key, Outcome, read_outcomes
from a2tgpo.files import new_file
from a2tgpo.redact import redact_settings
from a2tgpo.rollout.types import NOT_THE_POLICYS

ANSWERS, SETTINGS = "answers.jsonl", "settings.json"


@dataclass
class Answers:
    """Hold the outcomes in `folder`, by what was asked; `dropped` bytes of a line cut off by a crash were removed."""

    folder: Path
    outcomes: dict[Key, Outcome]
    dropped: int
    _file: TextIO

    def add(self, outcome: Outcome) -> None:
        """Keep `outcome`, in place of an earlier one of the same question and sample; it survives a kill."""
        self._file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
        self._file.flush()
        self.outcomes[_key(outcome)] = outcome

    def settled(self, key: Key) -> bool:
        """Say whether it was answered, well or badly; what a failing tool or server left open is asked again."""
        return key in self.outcomes and self.outcomes[key].termination not in NOT_THE_POLICYS


@contextmanager
def open_answers(folder: Path, settings: Mapping[str, Any]) -> Iterator[Answers]:
    """Open the answers in `folder`, made if need be, for a run with `settings`; one process at a time.

    Raises:
        RecipeError: `folder` holds a run with other settings, or a process is writing to it.
        DataError: the answers in it cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            check_settings(folder / SETTINGS, settings, folder)
            path = folder / ANSWERS
            dropped = _drop_torn_line(path)
            outcomes = {_key(outcome): outcome for outcome in read_outcomes(path)} if path.exists() else {}
            with path.open("a", encoding="utf-8") as file:
                yield Answers(folder, outcomes, dropped, file)
    except Timeout as error:
        raise RecipeError(f"output_dir={str(folder)!r}: another process is evaluating into it") from error


def read_answers(source: Path) -> list[Outcome]:
    """Read the outcomes of a run's folder or of a file; of two to the same question and sample the later.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    path = source / ANSWERS if source.is_dir() else source
    if not path.is_file():
        raise DataError(f"{source}: no answers of `a2tgpo eval` here; give the folder of a run, or a file of outcomes")
    return list({_key(outcome): outcome for outcome in read_outcomes(path)}.values())


def check_settings(path: Path, settings: Mapping[str, Any], output_dir: Path) -> None:
    """Write the settings of an evaluation into `output_dir` to `path`, without secrets, or compare with what is there.

    Raises:
        RecipeError: they differ; each is named with both values.
    """
    settings = redact_settings(settings)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in sorted({*settings, *earlier}) if settings.get(name) != earlier.get(name)]
    if differing:
        said = "; ".join(f"{name} was {earlier.get(name)!r} and is {settings.get(name)!r}" for name in differing)
        raise RecipeError(
            f"output_dir={str(output_dir)!r} holds an evaluation with other settings: {said}. Choose another folder"
        )


def _drop_torn_line(path: Path) -> int:
    """Cut off what follows the last whole line, and return how many bytes that was."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return len(content) - whole


def _key(outcome: Outcome) -> Key:
    return outcome.dataset, outcome.id, outcome.sample
