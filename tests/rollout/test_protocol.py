"""The tag protocol: what parses, what does not, and that retrieved text cannot speak it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.protocol import (
    SCAFFOLD,
    TAGS,
    Action,
    Answer,
    Ending,
    Malformed,
    Search,
    answer_turn,
    judge_turn,
    neutralise,
    parse_turn,
    render_result,
    restore_stop,
    search_turn,
    unbox,
    without_thoughts,
)
from a2tgpo.rollout.types import Termination


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think> a </think> <search> Kelo Mitu mentor </search>", Search("Kelo Mitu mentor")),
        ("\n<think>a</think><search>x</search>\n", Search("x")),
        ("<think> a </think> <answer> \\boxed{Besa Guild} </answer>", Answer("Besa Guild")),
        ("<think> a </think> <answer> so \\boxed{1} or \\boxed{f_{2}} </answer>", Answer("f_{2}")),
    ],
)
def test_well_formed_turns(text: str, action: object) -> None:
    """Each form of the paper's turn is read as what it asks for; the last box counts, braces inside it balance."""
    assert parse_turn(text) == action


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<search> x </search>", Search("x")),
        ("I need x. <search> x </search> Please.", Search("x")),
        ("<think> a </think> <think> b </think> So: <search> x </search>", Search("x")),
        ("<think> a <search> y </search> </think> <search> x </search>", Search("x")),  # a thought asks for nothing
        ("<search> x </search> <search> y </search>", Search("x")),  # where generation stops
        ("<think> a <search> x </search>", Search("x")),  # nobody closed the thought
        ("<answer> \\boxed{y} </answer>", Answer("y")),
        ("Well. <think> a </think> So: <answer> \\boxed{y} </answer> That is all.", Answer("y")),
        ("<think> \\boxed{x} </think> <result> made up </result> <answer> \\boxed{y} </answer>", Answer("y")),
        ("<think> a </think> <search> x </search> <answer> \\boxed{y} </answer>", Answer("y")),
        ("<answer> \\boxed{x} </answer> or <answer> \\boxed{y} </answer>", Answer("y")),
        ("<think> a </think> <answer> \\boxed{ } </answer>", Answer("")),
    ],
)
def test_what_else_a_turn_says_does_not_matter(text: str, action: object) -> None:
    """A turn goes on or ends by the block outside of its thoughts; whether the response keeps the format is told of all
    its turns together, and an empty answer is one."""
    assert parse_turn(text) == action


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Kelo Mitu",
        "<think> a </think>",
        "<think> a </think> <search>  </search>",
        "<think> a </think> <answer> Besa Guild </answer>",
        "<think> a </think> <answer> \\boxed{x </answer>",
        "<think> a </think> <search> x",
        "<think> a </think> <search> x <think> y </search>",
        "<think> a </think> <answer> \\boxed{x}",
        "<think> a <search> x </search> </think>",
        "<think> a <answer> \\boxed{x} </answer> </think>",
        "</search> x <search>",
    ],
)
def test_malformed_turns_say_why(text: str) -> None:
    """A turn with neither a search nor an answer ends the rollout: nothing is guessed at."""
    action = parse_turn(text)
    assert isinstance(action, Malformed)
    assert action.reason


def test_the_scaffold_is_how_a_policy_answers() -> None:
    """The scorer's scaffold, the demonstrations' last turn and the parser agree."""
    assert SCAFFOLD.count("{answer}") == 1
    assert parse_turn(answer_turn("Kelo Mitu")) == Answer("Kelo Mitu")
    assert parse_turn(search_turn("find it.", "Kelo")) == Search("Kelo")


def test_a_result_block() -> None:
    """The exact text of an observation, with hits and without."""
    passages = [Passage("1", "Kelo Mitu", "The mentor of Kelo Mitu is Bo Ra."), Passage("2", "Bo Ra", "A person.")]
    assert render_result(passages) == (
        '<result>\n[1] "Kelo Mitu" The mentor of Kelo Mitu is Bo Ra.\n[2] "Bo Ra" A person.\n</result>\n'
    )
    assert render_result([]) == "<result>\nno results\n</result>\n"


TAG_LIKE = st.sampled_from(
    [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    + ["< / RESULT >", "<Search >", "<", ">", "/", "x", "</res", "ult>", "<<think>>"]
)


@given(st.lists(TAG_LIKE, max_size=12).map("".join))
def test_no_passage_can_close_the_result_block(text: str) -> None:
    """However tags are nested, split or spelled, a rendered passage holds no protocol tag but the block's own two."""
    block = render_result([Passage("1", text, text)])
    inner = block.removeprefix("<result>\n").removesuffix("\n</result>\n")
    squeezed = "".join(inner.split()).lower()
    assert not any(f"<{slash}{tag}>" in squeezed for tag in TAGS for slash in ("", "/"))


def test_foreign_tokens_are_broken() -> None:
    """A tokenizer's added tokens are spelled so that the tokenizer no longer finds them."""
    assert neutralise("call <tool_call> now", ["<tool_call>"]) == "call < tool_call> now"


@given(st.text(alphabet="ab{} ", max_size=20))
def test_unbox_inverts_boxing(text: str) -> None:
    """Any text with balanced braces comes back from its box; an open box gives None."""
    depth, balanced = 0, True
    for character in text:
        depth += (character == "{") - (character == "}")
        balanced &= depth >= 0
    if balanced and depth == 0:
        assert unbox(f"so \\boxed{{{text}}}.") == text.strip()
    assert unbox("\\boxed{" + "{" * (text.count("}") + 1) + text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\text{Bora}}", "Bora"),
        (r"\boxed{\textbf{\text{New\ York}}}", "New York"),
        (r"\boxed{\{Bora\}}", "{Bora}"),
        (r"\boxed{\$5\%}", "$5%"),
        (r"\boxed{a \} b}", "a } b"),
        (r"\boxed{\{}", "{"),
        (r"\boxed{Bora\}", None),
        (r"\boxed{\text{Bora}", None),
    ],
)
def test_a_box_holds_plain_text_in_latex(text: str, answer: str | None) -> None:
    """An escaped brace neither opens nor closes; what LaTeX puts around the text is no part of the answer."""
    assert unbox(text) == answer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think> a </think> Bora", "Bora"),
        ("a </think> Bora", "Bora"),
        ("a </think> b </think> Bora", "Bora"),
        ("<think> a </think> Bora <think> b", "Bora"),
        ("Bora <think> a </think>", "Bora"),
        ("<think> a", ""),
        ("Bora", "Bora"),
        ("", ""),
    ],
)
def test_thoughts_are_left_out(text: str, said: str) -> None:
    """Those that are not opened, because the prompt did it, and those that nobody closed, too."""
    assert without_thoughts(text) == said


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
