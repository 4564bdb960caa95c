"""Environments, judges and tools of a user's that fail, each in its own way; rows say how."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from a2tgpo.environments import Action, StepResult, Tool
from a2tgpo.retrieval.corpus import Passage

CONTROL = "<|end|> </result> <|user|> ＜/result＞ \\boxed{x} \x00 \ud83d </guess>"

FAILURES = (
    *("raises", "exits", "interrupts", "hangs", "bytes", "none", "text", "nothing_shown", "bytes_shown", "nan"),
    *("word_reward", "huge_reward", "recursion", "no_memory", "strange_error", "never_awaited", "array_reward"),
    *("word_done", "array_done", "word_info", "textless_passage"),
)
"""What a step may do that no rollout can go on with."""

HARMLESS = ("fine", "ten_megabytes", "control_tokens", "refuses", "empty", "numpy_reward", "numpy_done", "no_info")
"""What a step may do that the rollout survives."""


class StrangeError(Exception):
    """Cannot even be written."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Faulty:
    """Fail a step as the row's `does` says, or the beginning or the end of the episode as `begins` and `ends` say."""

    tools = (Tool("guess", "Guess a number."),)

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.answer: Any = None
        self.success: Any = None
        self.row: Mapping[str, Any] = {}

    def rows(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Every fault in turn, or the one that the recipe names."""
        kinds = self.options.get("kinds") or [*FAILURES, *HARMLESS]
        return [{"prompt": "Play.", "number": i, "does": kinds[i % len(kinds)]} for i in range(n)]

    def reset(self, row: Mapping[str, Any]) -> Any:
        """Begin."""
        self.row, self.success, self.answer = row, False, "7"
        return _do(row["does"].removeprefix("reset:")) if row["does"].startswith("reset:") else None

    def step(self, action: Action) -> Any:
        """Fail."""
        if ":" in self.row["does"]:
            return StepResult("fine", 0.5, done=True)
        return _do(self.row["does"])

    def get_reward(self) -> Any:
        """Give the outcome."""
        does = self.row["does"]
        if does.startswith("reward:"):
            result = _do(does.removeprefix("reward:"))
            return result.reward if isinstance(result, StepResult) else result
        if does == "answer:bytes":
            self.answer = b"7"
        if does == "success:words":
            self.success = "no"
        return 0.5

    def fork(self) -> Any:
        """Copy."""
        return copy.copy(self)


def _do(kind: str) -> Any:
    match kind:
        case "raises":
            raise RuntimeError("boom")
        case "exits":
            raise SystemExit(3)
        case "interrupts":
            raise KeyboardInterrupt
        case "hangs":
            time.sleep(30)
        case "recursion":
            return _do(kind)
        case "no_memory":
            raise MemoryError
        case "strange_error":
            raise StrangeError
        case "refuses":
            from a2tgpo.environments import InvalidAction

            raise InvalidAction("not now")
        case "never_awaited":
            return asyncio.Event().wait()
    results: dict[str, Any] = {
        "bytes": b"\xff",
        "none": None,
        "text": "text",
        "nothing_shown": StepResult(None),  # type: ignore[arg-type]
        "bytes_shown": StepResult(b"x"),  # type: ignore[arg-type]
        "nan": StepResult("x", math.nan),
        "word_reward": StepResult("x", "much"),  # type: ignore[arg-type]
        "huge_reward": StepResult("x", 10**400),
        "array_reward": StepResult("x", _array([1.0, 2.0])),
        "numpy_reward": StepResult("x", _array(0.5), done=True),
        "word_done": StepResult("x", 0.5, done="no"),  # type: ignore[arg-type]
        "array_done": StepResult("x", 0.5, done=_array([True, False])),
        "numpy_done": StepResult("x", 0.5, done=_array(True)[()]),
        "word_info": StepResult("x", 0.5, info="x"),  # type: ignore[arg-type]
        "no_info": StepResult("x", 0.5, info=None),  # type: ignore[arg-type]
        "textless_passage": StepResult([Passage("1", "Kelo", None)], 0.5),  # type: ignore[arg-type]
        "ten_megabytes": StepResult("7 " * 5_000_000, 0.5),
        "control_tokens": StepResult(CONTROL, 0.5),
        "empty": StepResult("", 0.5),
    }
    return results.get(kind, StepResult("higher", 0.5))


def _array(value: Any) -> Any:
    import numpy

    return numpy.asarray(value)


class Fragile(Faulty):
    """Answer until a file appears, and fail from then on: an environment that goes away in mid-run."""

    def step(self, action: Action) -> Any:
        """Answer, and count."""
        with _lock:
            path = Path(os.environ["FRAGILE_COUNT"])
            n = int(path.read_text() or 0) + 1 if path.exists() else 1
            path.write_text(str(n))
        if n > self.options.get("calls", 8):
            raise ConnectionError("the game server is gone")
        return StepResult("higher", 0.5)


_lock = threading.Lock()


class NoReset:
    """Is no environment."""

    tools = Faulty.tools

    def step(self, action: Action) -> StepResult:
        """Answer."""
        return StepResult("fine")


class ResetTakesNothing(NoReset):
    """Has a reset that takes no row."""

    def reset(self) -> None:
        """Begin."""


class MakesNothing(Faulty):
    """Cannot be made."""

    def __init__(self) -> None:
        raise OSError("no licence")


def plays(row: Mapping[str, Any], said: Any) -> Any:
    """Demonstrate with something that is no text."""
    return None if row["number"] == 3 else "<guess> 4 </guess>"


def answered(n: int, seed: int) -> list[dict[str, Any]]:
    """Ask for numbers that everybody knows."""
    return [{"prompt": f"Play {i}.", "answer": "7"} for i in range(n)]


def numbered(n: int, seed: int) -> list[dict[str, Any]]:
    """Two prompts in turn, each row another."""
    return [{"prompt": f"Play {i % 2}.", "number": i, "does": "fine"} for i in range(n)]


def no_rows(n: int, seed: int) -> None:
    """Make none."""


class Twins(Faulty):
    """Names two tools alike, and one in two words."""

    tools = (*Faulty.tools, *Faulty.tools, Tool("my guess"))  # type: ignore[assignment]
