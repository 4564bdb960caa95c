"""Generate with an engine apart from the policy (vLLM), all rows turn by turn in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from a2tgpo.rollout.engine import Continuation, TakeTurns, Turn, ready


@dataclass(frozen=True)
class TurnSampling:
    """Say what one call of a `TokenEngine` is to write after each prompt.

    Attributes:
        max_tokens: most tokens of a turn.
        stop_strings: texts that end a turn and stay in it.
        n_entropies: first tokens of a turn whose entropies are wanted; 0 for none.
    """

    max_tokens: int
    stop_strings: tuple[str, ...]
    n_entropies: int = 0


class TokenEngine(Protocol):
    """Continue token sequences: the whole of what vLLM, or a server of it, has to do here."""

    def generate(self, prompts: list[list[int]], sampling: TurnSampling) -> list[Turn]:
        """Return one turn for each of `prompts`, in order, with its log-probabilities where the engine tells them."""


class LockstepEngine:
    """Generate with a `TokenEngine` (a `GenerationEngine`).

    Turns end at `stop_strings` inside the engine. Each turn sends the whole context again; vLLM's prefix cache, on
    unless switched off, has everything before the last turn, and what a new row shares with another.

    Processes that share an engine take part in each call with equally many prompts until the last of them has no open
    row; a process with fewer sends its first prompt again and throws the answer away.

    Args:
        engine: writes the turns.
        stop_strings: texts that close a turn.
        largest: the largest of a number over all processes that share the engine; a collective.
    """

    def __init__(
        self, engine: TokenEngine, stop_strings: Sequence[str], largest: Callable[[int], int] = lambda here: here
    ) -> None:
        self.engine = engine
        self.stop_strings = tuple(stop_strings)
        self.largest = largest

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None:
        contexts: dict[int, list[int]] = {}
        going = dict(enumerate(starts))
        while (n_prompts := self.largest(len(going))) > 0:
            for row, continuation in going.items():
                contexts[row] = contexts.get(row, []) + continuation.ids
            longest = self.largest(max((start.budget for start in going.values()), default=1))
            prompts = [contexts[row] for row in going]
            spare = [contexts[0]] * (n_prompts - len(prompts))
            written = self.engine.generate(prompts + spare, TurnSampling(longest, self.stop_strings, n_entropies))
            turns = {
                row: Turn(turn.ids[: start.budget], turn.entropies[: start.budget], turn.logps[: start.budget])
                for (row, start), turn in zip(going.items(), written, strict=False)
            }
            for row, turn in turns.items():
                contexts[row] = contexts[row] + turn.ids
            going = ready(take_turns(turns), take_turns) if turns else {}
