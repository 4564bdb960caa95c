import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.signals.answer_likelihood.token_budget import Extent, cut_by_tokens

CPU = torch.device("cpu")
extents = st.lists(
    st.builds(lambda first, width, extra: Extent(first, first + width, extra), *[st.integers(0, 9)] * 3), min_size=1
)


@given(rows=extents, tokens=st.integers(1, 60))
def test_every_row_runs_once_within_the_budget_and_its_columns(rows, tokens):
    """Whatever the lengths: each row is in one micro-batch that covers its columns and no other's, and neither of its
    forwards exceeds the budget unless a single row does."""
    found = cut_by_tokens(rows, tokens, CPU)
    assert sorted(row for batch in found for row in batch.rows) == list(range(len(rows)))
    for batch in found:
        members = [rows[row] for row in batch.rows]
        assert batch.columns == slice(min(row.first for row in members), max(row.end for row in members))
        widest = max(batch.columns.stop - batch.columns.start, *(row.extra for row in members))
        assert len(members) == 1 or len(members) * widest <= tokens


def test_similar_lengths_share_a_forward():
    """Two long and two short rows make a long and a short micro-batch, and pad nothing."""
    rows = [Extent(0, 100), Extent(0, 10), Extent(0, 100), Extent(0, 10)]
    found = cut_by_tokens(rows, 200, CPU)
    assert [(batch.rows, batch.columns.stop) for batch in found] == [((0, 2), 100), ((1, 3), 10)]


def test_without_a_budget_all_rows_share_one_forward():
    """None is one micro-batch over all columns that are needed."""
    (batch,) = cut_by_tokens([Extent(3, 8), Extent(1, 5, 99)], None, CPU)
    assert sorted(batch.rows) == [0, 1]
    assert batch.columns == slice(1, 8)


@pytest.mark.parametrize("tokens", [0, -5])
def test_a_budget_without_tokens_is_refused(tokens):
    """The error names the argument as `AnswerScorer.score` calls it."""
    with pytest.raises(ValueError, match=f"tokens_per_batch is {tokens}"):
        cut_by_tokens([Extent(0, 1)], tokens, CPU)
