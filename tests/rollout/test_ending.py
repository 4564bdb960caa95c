"""One set of rules for how rollouts end, for the agent loop and for chat servers."""

from __future__ import annotations

import pytest

from a2tgpo.errors import ToolError
from a2tgpo.rollout.ending import Ending, judge_turn, tool_failure
from a2tgpo.rollout.protocol import Action, Answer, Malformed, Search, restore_stop
from a2tgpo.rollout.types import Termination


@pytest.mark.parametrize(
    ("action", "n_searches", "cut", "verdict"),
    [
        (Answer("Bora"), 9, True, Ending(Termination.ANSWERED, "", "Bora")),
        (Malformed("no tag"), 0, False, Ending(Termination.MALFORMED, "no tag")),
        (Malformed("no tag"), 0, True, Ending(Termination.OUT_OF_TOKENS, "no tag")),
        (Search("kelo"), 1, False, Search("kelo")),
        (Search("kelo"), 2, False, Ending(Termination.OUT_OF_TURNS, "search 'kelo' after 2 searches")),
    ],
)
def test_a_turn_ends_the_rollout_or_searches(
    action: Action, n_searches: int, cut: bool, verdict: Search | Ending
) -> None:
    """With two searches allowed: answers end it at any time, the third search and whatever is malformed do too."""
    assert judge_turn(action, n_searches, 2, cut=cut) == verdict


def test_a_failed_tool_is_not_the_policys_ending() -> None:
    """The reason has the query and the tool's own words."""
    ending = tool_failure("kelo", ToolError("index on fire"))
    assert ending == Ending(Termination.TOOL_FAILED, "search 'kelo': index on fire")


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ("<think>a</think> <search> b ", "<think>a</think> <search> b </search>"),
        ("<think>a</think> <answer> b", "<think>a</think> <answer> b</answer>"),
        ("<search> a </search> <answer> b", "<search> a </search> <answer> b</answer>"),
        ("<search> a </search>", "<search> a </search>"),
        ("<think> a", "<think> a"),
        ("", ""),
    ],
)
def test_the_open_block_is_closed(cut: str, whole: str) -> None:
    """And nothing else is added; what is whole stays as it is."""
    assert restore_stop(cut) == whole == restore_stop(whole)
