"""Invented names: consonant-vowel syllables, so that a small tokenizer can spell any of them one syllable per token."""

from __future__ import annotations

import random

from a2tgpo.errors import DataError

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in VOWELS)
ORGANISATION_KINDS = ("Guild", "Union", "League", "Works")

_ATTEMPTS = 1000


class Namer:
    """Draws names that share no invented word with any earlier one.

    Unshared words mean that a name is found by any of its words, and that no evaluation name was half seen in training.

    Raises:
        DataError: when almost every two-syllable word is taken (about 2,500 people and organisations).
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def person(self) -> str:
        """Two words of two syllables: `Kelo Mitu`."""
        return f"{self._word(2)} {self._word(2)}"

    def place(self) -> str:
        """One word of three syllables: `Rupoka`."""
        return self._word(3)

    def organisation(self) -> str:
        """Two syllables and a kind: `Besa Guild`."""
        return f"{self._word(2)} {self._rng.choice(ORGANISATION_KINDS)}"

    def _word(self, syllables: int) -> str:
        for _ in range(_ATTEMPTS):
            word = "".join(self._rng.sample(SYLLABLES, syllables))
            if word not in self._taken:
                self._taken.add(word)
                return word.capitalize()
        raise DataError(
            f"no unused name of {syllables} syllables left after {len(self._taken)} words; generate a smaller world"
        )
