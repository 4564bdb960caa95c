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
REGIONS = (
    *(("ba", "lu"), ("dre", "si"), ("fi", "to"), ("ko", "ne")),
    *(("lu", "dra"), ("ra", "pe"), ("ste", "mi"), ("vo", "ga")),
)
"""The beginnings of a region's names, in worlds that have regions: its places begin with both syllables, the words of
its other names with the first."""
ORGANISATION_KINDS = ("Guild", "Union", "League", "Works")

Beginning = tuple[str, ...]

_ATTEMPTS = 1000


def split_syllables(word: str) -> list[str]:
    """Split a word: `Trelo` gives `tre`, `lo`."""
    return re.findall(f"[^{VOWELS}]+[{VOWELS}]", word.lower())


class Namer:
    """Draw names that share no invented word with any earlier one.

    Unshared words mean that a name is found by any of its words, and that no evaluation name was half seen in training.
    Names of one of the `REGIONS` begin alike.

    Raises:
        DataError: when almost every two-syllable word is taken: by some 10,000 people and organisations, or by 100 of
            one region.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def person(self, region: Beginning = ()) -> str:
        """Draw two words of two syllables: `Kelo Mitu`."""
        return f"{self._word(2, region[:1])} {self._word(2, region[:1])}"

    def place(self, region: Beginning = ()) -> str:
        """Draw one word of three syllables: `Rupoka`."""
        return self._word(3, region)

    def organisation(self, region: Beginning = ()) -> str:
        """Draw two syllables and a kind: `Besa Guild`."""
        return f"{self._word(2, region[:1])} {self._rng.choice(ORGANISATION_KINDS)}"

    def _word(self, syllables: int, beginning: Beginning) -> str:
        free = [syllable for syllable in SYLLABLES if syllable not in beginning]
        for _ in range(_ATTEMPTS):
            word = "".join((*beginning, *self._rng.sample(free, syllables - len(beginning))))
            if word not in self._taken:
                self._taken.add(word)
                return word.capitalize()
        raise DataError(
            f"no unused name of {syllables} syllables left after {len(self._taken)} words; generate a smaller world"
        )
