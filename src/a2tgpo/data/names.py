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
    *("ba", "dre", "fi", "ko", "zu", "ra", "ste", "vo", "gle", "pu", "sni", "da"),
    *("bro", "ku", "fle", "ga", "tri", "se", "plo", "ni", "spu", "fa", "gro", "te"),
)
"""Hold the beginnings of names of a region, in worlds that have regions."""
PARTS = (("lu", "dra", "mi"), ("ke", "to", "pa"), ("si", "ne", "bli"))
"""Hold the syllables that stand second, third and fourth in a name with a region; none stands in two places."""
ORGANISATION_KINDS = ("Guild", "Union", "League", "Works")

_ATTEMPTS = 1000


def split_syllables(word: str) -> list[str]:
    """Split a word: `Trelo` gives `tre`, `lo`."""
    return re.findall(f"[^{VOWELS}]+[{VOWELS}]", word.lower())


class Namer:
    """Draw names that share no invented word with any earlier one.

    Unshared words mean that a name is found by any of its words, and that no evaluation name was half seen in training.

    Raises:
        DataError: when almost every two-syllable word is taken, by some 10,000 people and organisations.
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


def spell(kind: str, region: int, second: int, third: int, fourth: int) -> str:
    """Spell a name of four parts: `Balu Kesi`, a person; `Balukesi`, a place; `Baluke Guild`, an organisation.

    Args:
        kind: person, place or organisation.
        region: index into `REGIONS`.
        second, third, fourth: indices into the three of `PARTS`; an organisation's fourth part is its kind.
    """
    first = REGIONS[region] + PARTS[0][second]
    if kind == "person":
        return f"{first} {PARTS[1][third]}{PARTS[2][fourth]}".title()
    if kind == "place":
        return f"{first}{PARTS[1][third]}{PARTS[2][fourth]}".capitalize()
    return f"{first}{PARTS[1][third]} {ORGANISATION_KINDS[fourth]}".title()
