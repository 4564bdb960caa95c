"""How a rollout ends, whoever writes its turns."""

from __future__ import annotations

from dataclasses import dataclass

from a2tgpo.errors import ToolError
from a2tgpo.rollout.protocol import Action, Answer, Malformed, Search
from a2tgpo.rollout.types import Termination


@dataclass(frozen=True)
class Ending:
    """Why a rollout ended, the sentence behind it, and its answer if it gave one."""

    termination: Termination
    reason: str = ""
    answer: str | None = None


def judge_turn(action: Action, n_searches: int, max_searches: int, *, cut: bool) -> Search | Ending:
    """The search that the rollout goes on with, or the ending that the turn brings.

    Args:
        action: what the turn says.
        n_searches: searches made before it.
        max_searches: how many there may be.
        cut: whether the turn was cut off by its token budget, which excuses its form.
    """
    match action:
        case Answer(text):
            return Ending(Termination.ANSWERED, answer=text)
        case Malformed(reason):
            return Ending(Termination.OUT_OF_TOKENS if cut else Termination.MALFORMED, reason)
        case Search(query) if n_searches >= max_searches:
            return Ending(Termination.OUT_OF_TURNS, f"search {query!r} after {n_searches} searches")
        case Search():
            return action


def tool_failure(query: str, error: ToolError) -> Ending:
    """The ending of a rollout whose search failed."""
    return Ending(Termination.TOOL_FAILED, f"search {query!r}: {error}")
