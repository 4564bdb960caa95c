"""Gold answers in every shape that data sets made for verl have them, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from a2tgpo.errors import DataError
from a2tgpo.integrations.verl.gold_answers import gold_answers, read_gold_answers


@pytest.mark.parametrize(
    ("truth", "answers"),
    [
        ("Rome", ["Rome"]),
        (["Rome", "Roma"], ["Rome", "Roma"]),
        (("Rome",), ["Rome"]),
        (np.array(["Rome", "Roma"], dtype=object), ["Rome", "Roma"]),
        (np.str_("Rome"), ["Rome"]),
        ({"target": "Rome"}, ["Rome"]),
        ({"target": np.array(["Rome", "Roma"])}, ["Rome", "Roma"]),
        ({"target": [["Rome"], ["Roma"]]}, ["Rome", "Roma"]),
        ({"answers": ["Rome"], "target": None}, ["Rome"]),
        ([np.array(["Rome"]), "Rome"], ["Rome"]),
        (42, ["42"]),
        (np.int64(42), ["42"]),
        (np.array(3.5), ["3.5"]),
    ],
)
def test_every_shape(truth: Any, answers: list[str]) -> None:
    """One list of texts comes of each, the canonical answer first and none twice."""
    assert gold_answers({"style": "rule", "ground_truth": truth}, "row 0") == answers


@pytest.mark.parametrize(
    "reward_model",
    [None, {}, "Rome", {"ground_truth": None}, {"ground_truth": []}, {"ground_truth": " "}]
    + [{"ground_truth": truth} for truth in (["Rome", ""], {"style": "x"}, object(), np.array([]), {"target": []})],
)
def test_a_row_without_an_answer_is_named(reward_model: Any) -> None:
    """The message has the row and what it holds, whatever that is."""
    with pytest.raises(DataError, match=r"row 7 .*ground_truth="):
        gold_answers(reward_model, "row 7")


def test_a_data_set_is_read_to_its_end() -> None:
    """The first row that is wrong is named by its number."""
    with pytest.raises(DataError, match="row 2 of the data set"):
        read_gold_answers([{"ground_truth": "a"}, {"ground_truth": ["b"]}, {"ground_truth": ""}])
