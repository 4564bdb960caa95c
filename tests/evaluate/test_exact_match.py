"""Exact match is SQuAD's: hand-written cases, and properties that hold for any text."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.text_match import exact_match, normalize_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Beatles", "beatles"),
        ("a the an", ""),
        ("An apple a day", "apple day"),
        ("Anthem of the theatre", "anthem of theatre"),
        ("  New\tYork\n City ", "new york city"),
        ("U.S.A.", "usa"),
        ("rock-and-roll", "rockandroll"),
        ("O'Brien", "obrien"),
        ("the-end", "theend"),
        ("$1,000", "1000"),
        ("ÉCOLE Normale", "école normale"),
        ("İstanbul", "i̇stanbul"),
        ("“quoted”", "“quoted”"),
        ("1984–1985", "1984–1985"),
        ("", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    """Case, ASCII punctuation, whole-word articles and white space go, in SQuAD's order: punctuation before articles,
    so that `the-end` is one word; accents, typographic quotes and dashes stay."""
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "same"),
    [
        ("the Eiffel Tower.", ["Eiffel Tower"], True),
        ("Eiffel", ["Eiffel Tower"], False),
        ("JFK", ["John F. Kennedy", "J.F.K."], True),
        ("Zoë", ["Zoe"], False),
        (None, ["None"], False),
        (None, [""], False),
        ("", ["x"], False),
        ("the", ["!"], True),
        ("x", [], False),
    ],
)
def test_any_alias_counts(prediction: str | None, answers: list[str], same: bool) -> None:
    """A prediction is right if it equals any alias; no prediction never is; two texts of which nothing is left are
    equal, as in SQuAD's own script."""
    assert exact_match(prediction, answers) is same


@given(st.text())
def test_normalising_what_is_normal_changes_no_punctuation(text: str) -> None:
    """The normal form has no ASCII punctuation, no outer or double space, and equals itself as an answer."""
    normal = normalize_answer(text)
    assert not set(normal) & set(string.punctuation)
    assert normal == " ".join(normal.split())
    assert exact_match(text, [text])


@given(st.lists(st.sampled_from(["Bora", "Tine", "of", "hill", "7"]), min_size=1).map(" ".join))
def test_decoration_changes_nothing(name: str) -> None:
    """Case, a leading article and surrounding punctuation never decide."""
    assert exact_match(f"The {name.upper()}!", [f"a '{name}'"])
