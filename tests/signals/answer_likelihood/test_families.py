"""Every causal family of transformers, tiny and random: scored from its cache as from rows, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from tests.signals.answer_likelihood.families import (
    MADE_WITH,
    NOT_BUILT,
    describe,
    families,
    rollouts_of_four,
    tiny_model,
    word_tokenizer,
)
from tests.signals.answer_likelihood.test_scorer import answer_logp
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, plain_forward
from a2tgpo.signals.answer_likelihood.tested_families import TESTED

SCAFFOLD = AnswerScaffold("it is ( {answer} )")
TABLE = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
DOCUMENTED = {match[1]: match[0] for match in re.finditer(r"^\| `(\S+)` \|.*$", TABLE, re.MULTILINE)}
BOUNDARIES = [(0, 1, 4), (3, 2, 7)]
"""Rollout, boundary, and the columns of the completion before it."""

pytestmark = pytest.mark.skipif(
    not transformers.__version__.startswith(f"{MADE_WITH}."), reason=f"the families of transformers {MADE_WITH}"
)


@pytest.mark.parametrize("family", families())
def test_a_family_is_scored_as_documented(family: str) -> None:
    """What `docs/models.md` says of the family happens. From the cache, at every boundary and alias, likelihoods equal
    those of separate rows to 1e-4, and old log-probabilities those of one pass over whole rows; at two boundaries they
    equal the definition, one unpadded row."""
    model, tokenizer, rollouts = tiny_model(family), word_tokenizer(), rollouts_of_four()
    scorer = AnswerScorer(SCAFFOLD, tokenizer, "log_probability", alias="best", method="cached")
    row, cached = describe(model, family, scorer, rollouts)
    assert str(row) == DOCUMENTED[family]
    assert (cached is not None) == (family in TESTED)
    if cached is None:
        return
    by_rows = AnswerScorer(SCAFFOLD, tokenizer, "log_probability", alias="best", method="rows")
    rows = by_rows.score(plain_forward(model), model.config, **rollouts)
    torch.testing.assert_close(cached.likelihood, rows.likelihood, atol=1e-4, rtol=0)
    torch.testing.assert_close(cached.old_logps, rows.old_logps, atol=1e-4, rtol=0)
    assert cached.likelihood[3, :4].std() > 1e-3, "boundaries that do not differ would hide a wrong one"
    for number, boundary, end in BOUNDARIES:
        prompt = rollouts["prompt_ids"][number][rollouts["prompt_mask"][number].bool()].tolist()
        prefix = prompt + rollouts["completion_ids"][number, :end].tolist()
        suffixes = [SCAFFOLD.encode(tokenizer, answer) for answer in rollouts["answers"][number]]
        defined = max(answer_logp(model, prefix, suffix) for suffix in suffixes)
        assert cached.likelihood[number, boundary].item() == pytest.approx(defined, abs=1e-4)


def test_every_family_is_in_the_table() -> None:
    """Each causal family of this transformers is documented or named among those that are not built."""
    assert set(DOCUMENTED) | set(NOT_BUILT) >= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert not set(DOCUMENTED) & set(NOT_BUILT)
