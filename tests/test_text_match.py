"""Exact match, F1 and containment: hand-written cases, and the rules of SQuAD's, HotpotQA's and FlashRAG's scorers."""

from __future__ import annotations

import string
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo.text_match import contains_answer, exact_match, f1_score, normalize_answer, plain_text
from tests.evaluate import scorers


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


TEXTS = [
    "",
    "the",
    "a the an",
    "A.",
    "!?",
    "yes",
    "Yes.",
    "the YES!",
    "yes it is",
    "no",
    "No, no",
    "no answer",
    "noanswer",
    "unknown",
    "Bora",
    "the Bora",
    "Bora, Tine",
    "Tine Bora Bora",
    "New York City",
    "the City of New\u00a0York",
    "anthem of the theatre",
    "rock-and-roll",
    "rock and roll",
    "O'Brien",
    "O’Brien",
    "1,000",
    "1000",
    "$1,000.50",
    "1984–1985",
    "1984-1985",
    "ÉCOLE Normale",
    "ecole normale",
    "e\u0301cole normale",
    "an\u0301 hour",
    "İstanbul",
    "straße",
    "STRASSE",
    "東京 都",
    "٣ ٣ four",
    "tab\tand\nline\u2028break",
    "under_score the_end",
    "x²",
]
"""Unicode, articles, punctuation, numbers, yes and no, and texts of which nothing is left."""

CLOSED = (["yes"], ["no"], ["noanswer"])

noise = st.sampled_from(["", " ", ".", ", ", "-", "'", "“", "\u00a0", "\n", "_"])
vocabulary = st.sampled_from(
    ["the", "A", "an", "yes", "No", "noanswer", "Bora", "bora", "Tine", "7", "1,000", "é", "É"]
)
answers = st.lists(st.tuples(vocabulary, noise), max_size=6).map(lambda parts: "".join(w + n for w, n in parts))


@pytest.mark.parametrize("gold", TEXTS)
def test_every_pair_of_hard_texts(gold: str) -> None:
    """1,764 pairs: exact match is both scorers', F1 is HotpotQA's, to the last digits."""
    for prediction in TEXTS:
        assert exact_match(prediction, [gold]) is scorers.exact(prediction, gold)
        assert f1_score(prediction, [gold]) == pytest.approx(scorers.hotpot_f1(prediction, gold), abs=1e-12)


def test_the_two_scorers_differ_where_a_text_is_closed_only() -> None:
    """On those pairs F1 is SQuAD's wherever neither text is just yes, no or noanswer, and never above SQuAD's; there
    are pairs that SQuAD gives something and HotpotQA, and we, nothing."""
    differ = 0
    for prediction, gold in product(TEXTS, TEXTS):
        found, squad = f1_score(prediction, [gold]), scorers.squad_f1(prediction, gold)
        if scorers.words(prediction) in CLOSED or scorers.words(gold) in CLOSED:
            assert found <= squad + 1e-12
            differ += found < squad
        else:
            assert found == pytest.approx(squad, abs=1e-12)
    assert differ > 0 and f1_score("yes it is", ["yes"]) == 0.0 < scorers.squad_f1("yes it is", "yes")


@settings(max_examples=400, deadline=None)
@given(answers | st.text(max_size=20), st.lists(answers | st.text(max_size=20), min_size=1, max_size=4))
def test_generated_answers_with_aliases(prediction: str, golds: list[str]) -> None:
    """The best alias counts, in exact match as in F1; an exact match contains the answer, and shares all its words
    unless it has none."""
    assert exact_match(prediction, golds) is any(scorers.exact(prediction, gold) for gold in golds)
    best = max(scorers.hotpot_f1(prediction, gold) for gold in golds)
    assert f1_score(prediction, golds) == pytest.approx(best, abs=1e-12)
    if exact_match(prediction, golds):
        assert contains_answer(prediction, golds)
        assert f1_score(prediction, golds) == (1.0 if scorers.words(prediction) else 0.0)


@pytest.mark.parametrize(
    ("prediction", "golds", "f1"),
    [
        ("Bora of Tine", ["Bora"], 0.5),  # precision 1/3, recall 1
        ("Bora", ["Bora of Tine"], 0.5),
        ("Bora Bora Tine", ["Bora"], 0.5),  # a word counts as often as both have it
        ("Bora Bora", ["Bora Bora Tine"], 0.8),  # precision 1, recall 2/3
        ("Bora Kelo", ["Tine", "Kelo Bora", "Bora"], 1.0),
        ("", [""], 0.0),
        (None, ["Bora"], 0.0),
        ("Bora", [], 0.0),
    ],
)
def test_f1_by_hand(prediction: str | None, golds: list[str], f1: float) -> None:
    """Worked out by hand; two empty texts share no word, as in SQuAD v1.1 and unlike in v2."""
    assert f1_score(prediction, golds) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "golds", "contains"),
    [
        ("It is the Bora of Tine.", ["Bora"], True),
        ("It is Bora, Tine", ["the Bora Tine"], True),
        ("Bora", ["Bora of Tine"], False),
        ("nobody", ["no"], True),  # a substring, not a word, as FlashRAG and Search-R1 have it
        ("kelo", ["Bora", "Kelo!"], True),
        ("Bora", ["A", "!"], False),  # nothing is left of these: they are not in every text
        ("the", ["A"], True),
        ("", ["Bora"], False),
        (None, ["Bora"], False),
        ("Bora", [], False),
    ],
)
def test_containment_by_hand(prediction: str | None, golds: list[str], contains: bool) -> None:
    """Normal forms decide, any alias counts."""
    assert contains_answer(prediction, golds) is contains


@settings(deadline=None)
@given(answers, st.lists(answers, max_size=3))
def test_containment_is_flashrags(prediction: str, golds: list[str]) -> None:
    """Wherever something is left of every alias, it is whether one's normal form is a substring."""
    if all(map(scorers.words, golds)):
        found = " ".join(scorers.words(prediction))
        assert contains_answer(prediction, golds) is any(" ".join(scorers.words(gold)) in found for gold in golds)


# --- LaTeX around plain text -----------------------------------------------------------------------------------------

SIGNS = {r"\{": "{", r"\}": "}", r"\$": "$", r"\%": "%", r"\&": "&", r"\#": "#", r"\_": "_", r"\ ": " ", "~": " "}


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\text{Bora}", "Bora"),
        (r"\textbf{Bora}", "Bora"),
        (r"\mathrm{Bora}", "Bora"),
        (r"\operatorname*{Bora}", "Bora"),
        (r"\text {New York}", "New York"),
        (r"\textbf{\textit{\mathrm{Bora}}}", "Bora"),
        (r"\text{Bora} of \text{Tine}", "Bora of Tine"),
        (r"\text{Bora of }\textbf{Tine}", "Bora of Tine"),
        (r"{\bf Bora}", "Bora"),
        (r"$Bora$", "Bora"),
        (r"$\text{Bora}$", "Bora"),
        (r"\(\text{Bora}\)", "Bora"),
        (r"\text{New\ York}", "New York"),
        (r"New\,York\quad City", "New York City"),
        (r"\text{AT\&T}", "AT&T"),
        (r"\{Bora\}", "{Bora}"),
        (r"\$1{,}000", "$1,000"),
        (r"\text{50\%}", "50%"),
        (r"\text{}", ""),
        ("  Bora  of Tine ", "Bora  of Tine"),  # no LaTeX: only outer space goes
        ("$5 to $6", "$5 to $6"),
        ("{Bora}", "{Bora}"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"x_{2} \text{ and } \sqrt {y}", r"x_{2} and \sqrt {y}"),
        (r"AC\DC", r"AC\DC"),
        ("Bora\\", "Bora\\"),
    ],
)
def test_latex_around_plain_text_is_taken_off(latex: str, text: str) -> None:
    """By hand: what LaTeX prints; mathematics and unknown commands stay as written, and so does what is no LaTeX."""
    assert plain_text(latex) == text


_plain_words = st.lists(st.sampled_from(["Bora", "7", *SIGNS.values()]), min_size=1, max_size=6).map("".join)
_commands = st.lists(st.sampled_from(["text", "textbf", "mathrm", "textit", "mbox", "operatorname"]), max_size=4)


@given(_plain_words, _commands)
def test_any_text_in_any_commands_comes_back(text: str, commands: list[str]) -> None:
    """A text whose signs are escaped, inside nested commands, is the text with single spaces."""
    escape = {sign: latex for latex, sign in SIGNS.items() if latex != "~"}
    latex = "".join(escape.get(letter, letter) for letter in text)
    for command in commands:
        latex = f"\\{command}{{{latex}}}"
    if "\\" in latex:
        assert plain_text(latex) == " ".join(text.split())


@given(st.text(alphabet="\\{}$~ abtex", max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    """Whatever the policy writes gives a text, in time that grows with its length and not with its depth."""
    assert isinstance(plain_text(text), str)
    assert isinstance(plain_text("\\text{" * 20_000 + text), str)
