"""Anchor states of similar observations, as the published code of GiGPO finds them."""

from difflib import SequenceMatcher

from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.pipeline.anchor_states import number_states


def test_the_new_text_comes_first():
    """difflib's ratio depends on the order: of "diet" to a known "tide" it is 1/2, of "tide" to a known "diet" 1/4."""
    assert number_states([["tide"], ["diet"]], 2, 1, similarity=0.5).tolist() == [[0], [0]]
    assert number_states([["diet"], ["tide"]], 2, 1, similarity=0.5).tolist() == [[0], [1]]


def test_common_characters_of_long_texts_are_ignored():
    """A letter before a known text of three letters and 240 characters leaves nothing that difflib's autojunk matches;
    a text of 120 characters is compared in full."""
    for length, states in ((80, [[0], [1]]), (40, [[0], [0]])):
        text = "ab " * length
        assert number_states([[text], ["x" + text]], 2, 1, similarity=0.9).tolist() == states


@given(
    texts=st.lists(st.text("abcd ", max_size=30), min_size=1, max_size=8), similarity=st.sampled_from([0.3, 0.6, 0.9])
)
def test_clusters_as_published(texts, similarity):
    """A text joins the first cluster whose first text it is similar enough to, by difflib's ratio itself."""
    clusters: list[list[str]] = []
    expected = []
    for text in texts:
        found = (i for i, c in enumerate(clusters) if SequenceMatcher(None, text, c[0]).ratio() >= similarity)
        number = next(found, len(clusters))
        if number == len(clusters):
            clusters.append([])
        clusters[number].append(text)
        expected.append(number)
    assert number_states([texts], 1, len(texts), similarity).tolist() == [expected]
