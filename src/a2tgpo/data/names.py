"""Invent names, made of syllables that end in their only vowel, so that each has one spelling in syllables."""

from __future__ import annotations

import random
import re

from a2tgpo.errors import DataError

_CONSONANTS = "bdfgklmnprstvz"
_CLUSTERS = ("bl", "br", "dr", "fl", "fr", "gl", "gr", "kl", "kr", "pl", "pr", "sk", "sl", "sm", "sn", "sp", "st", "tr")
ONSETS = (*_CONSONANTS, *_CLUSTERS)
VOWELS = "aeiou"
SYLLABLES = tuple(onset + vowel for onset in ONSETS for vowel in VOWELS)
ORGANISATION_KINDS = ("Guild", "Union", "League", "Works")

_ATTEMPTS = 1000


def split_syllables(word: str) -> list[str]:
    """Split a word: `Trelo` gives `tre`, `lo`."""
    return re.findall(f"[^{VOWELS}]+[{VOWELS}]", word.lower())


class Namer:
    """Draw names that share no invented word with any earlier one.

    Unshared words mean that a name is found by any of its words, and that no evaluation name was half seen in training.

    Raises:
        DataError: when almost every two-syllable word is taken (some 10,000 people and organisations).
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def person(self) -> str:
        """Draw two words of two syllables: `Kelo Mitu`."""
        return f"{self._word(2)} {self._word(2)}"

    def place(self) -> str:
        """Draw one word of three syllables: `Rupoka`."""
        return self._word(3)

    def organisation(self) -> str:
        """Draw two syllables and a kind: `Besa Guild`."""
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
