"""Split texts into words as BM25 counts them."""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO

import numpy as np
import Stemmer

from a2tgpo.retrieval.corpus import Passage


@contextmanager
def without_jax() -> Iterator[None]:
    """Hide JAX from an import. bm25s runs a JAX kernel as it is imported, which reserves most of a GPU."""
    loaded = sys.modules.get("jax.lax")
    sys.modules["jax.lax"] = None  # type: ignore[assignment]  # how Python spells "this import fails"
    try:
        yield
    finally:
        del sys.modules["jax.lax"]
        if loaded is not None:
            sys.modules["jax.lax"] = loaded


with without_jax():
    from bm25s.stopwords import STOPWORDS_EN

# The first number is to be raised when the words of a text change here; another PyStemmer may give other stems.
WORDS_VERSION = f"1/{Stemmer.version()}"
"""The version of the rules; an index of words by another one is built anew or refused."""

# Single characters are words too ("Malcolm X"), unless they follow an apostrophe ("Ann's").
_WORD = re.compile(r"\w\w+|(?<!['’])\w")
# "Will" names people: as a stop word it would leave "Will Orr" the same as every other Orr.
_STOP_WORDS = frozenset(STOPWORDS_EN) - {"will"}

Stem = Callable[[str], str]


def make_stem(*, cached: bool = False) -> Stem:
    """Make an English stemmer for one thread; `cached` keeps every word it has seen, which pays for a whole corpus."""
    stem: Stem = Stemmer.Stemmer("english").stemWord
    return cache(stem) if cached else stem


def terms(text: str, stem: Stem) -> list[str]:
    """Return the stems of the words of `text` in their order, without stop words.

    A text of stop words alone is one term in capitals, which no stem can equal: "its" has the stem "it".
    """
    words = _WORD.findall(text.lower())
    content_words = [word for word in words if word not in _STOP_WORDS]
    if words and not content_words:
        return [" ".join(words).upper()]
    return [stem(word) for word in content_words]


class CorpusWords:
    """Turn the words of passages into the numbers that bm25s counts.

    Attributes:
        vocab: the number of each term.
        ids: one list of numbers per passage, which lie in the file `scratch`.
    """

    def __init__(self, passages: Iterable[Passage], title_weight: int, scratch: IO[bytes]) -> None:
        stem = make_stem(cached=True)
        self.vocab: dict[str, int] = {}
        ends = array("q", [0])
        for passage in passages:
            found = title_weight * terms(passage.title, stem) + terms(passage.text, stem)
            ids = np.array([self.vocab.setdefault(term, len(self.vocab)) for term in found], dtype=np.int32)
            scratch.write(ids.tobytes())
            ends.append(ends[-1] + len(ids))
        scratch.flush()
        flat = np.memmap(scratch, np.int32, "r") if ends[-1] else np.zeros(0, np.int32)
        self.ids = _Lists(flat, np.frombuffer(ends, np.int64))


class _Lists:
    """Give lists of numbers that lie end to end in one array."""

    def __init__(self, flat: np.ndarray, ends: np.ndarray) -> None:
        self._flat, self._ends = flat, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(len(self)):
            yield self._flat[self._ends[i] : self._ends[i + 1]].tolist()
