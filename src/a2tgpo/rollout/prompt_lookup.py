"""Guess a rollout's next tokens from what it has read and written: names are copied from passages, and turns begin
alike.

Prompt lookup decoding (Saxena, 2023). Guesses are forwarded with the token before them, and each position is drawn as
it always is; a guess that was not drawn, and all behind it, is dropped. So what is drawn has the same distribution, and
greedy choices are the same, whatever is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_MATCH = 3
MOST_GUESSES = 6


class PromptLookup:
    """Find where the last tokens of a context stood before, and what followed there."""

    def __init__(self) -> None:
        self._follower: dict[tuple[int, ...], int] = {}
        self._n_known = 0

    def guess(self, context: Sequence[int], n_most: int) -> list[int]:
        """Return at most `n_most` tokens: those behind the latest place where the last three tokens of `context` stood
        before, or the last two, or the last.

        Args:
            context: the one of the call before, with more tokens at its end.
        """
        for end in range(max(self._n_known, 1), len(context)):
            for n in range(1, min(LONGEST_MATCH, end) + 1):
                self._follower[tuple(context[end - n : end])] = end
        self._n_known = max(self._n_known, len(context))
        if n_most <= 0:
            return []
        for n in range(min(LONGEST_MATCH, len(context)), 0, -1):
            if (start := self._follower.get(tuple(context[-n:]))) is not None:
                return list(context[start : start + n_most])
        return []
