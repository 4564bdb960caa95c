"""What a reply asks for, in either way of speaking."""

from __future__ import annotations

import pytest

from a2tgpo.chat_reply import Call, Reply
from a2tgpo.environments import Action
from a2tgpo.evaluate.dialogue import TagDialogue, ToolDialogue, transcript
from a2tgpo.rollout.protocol import Answer, Malformed


def reply(text: str, *calls: str, cut: bool = False, may_lack_stop: bool = True) -> Reply:
    """A reply of `text`, with calls of `search` that have these arguments."""
    made = tuple(Call(f"c{i}", "search", arguments) for i, arguments in enumerate(calls))
    return Reply(text, made, cut, may_lack_stop and not cut, 1, 1)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>a</think> <search> kelo mitu ", Action("search", "kelo mitu")),
        ("<think>a</think> <search> kelo mitu </search>", Action("search", "kelo mitu")),
        ("<think>a</think> <answer> \\boxed{Bora} ", Answer("Bora")),
    ],
)
def test_the_stop_string_that_servers_cut_off_is_put_back(text: str, action: Action | Answer) -> None:
    """With it or without, the turn means the same, and the conversation keeps the whole of it."""
    dialogue = TagDialogue()
    assert dialogue.actions(reply(text)) == [action]
    assert dialogue.message(reply(text))["content"].endswith(("</search>", "</answer>"))
    assert dialogue.options == {"stop": ["</search>", "</answer>"]}


def test_no_stop_string_is_put_where_none_was() -> None:
    """A turn that its budget cut off, or that ended without one, stays malformed."""
    for ended in (
        reply("<think>a</think> <search> ke", cut=True),
        reply("<think>a</think> <search> k", may_lack_stop=False),
    ):
        assert isinstance(TagDialogue().actions(ended)[0], Malformed)
        assert TagDialogue().message(ended)["content"] == ended.text


def test_every_call_of_a_message_is_a_search() -> None:
    """In order, and each result answers its own call."""
    both = reply("", '{"query": " kelo "}', '{"query": "mitu"}')
    dialogue = ToolDialogue()
    assert dialogue.actions(both) == [Action("search", "kelo"), Action("search", "mitu")]
    assert dialogue.result(both, 1, "found") == {"role": "tool", "tool_call_id": "c1", "content": "found"}
    assert [call["id"] for call in dialogue.message(both)["tool_calls"]] == ["c0", "c1"]


@pytest.mark.parametrize(
    "arguments", ["", "kelo", "[]", "7", '"kelo"', '{"q": "kelo"}', '{"query": 7}', '{"query": " "}', '{"query": "ke']
)
def test_arguments_that_do_not_parse_are_malformed(arguments: str) -> None:
    """The reason shows them."""
    (action,) = ToolDialogue().actions(reply("", arguments))
    assert isinstance(action, Malformed) and ("query" in action.reason)


def test_a_call_of_another_tool_is_malformed() -> None:
    """The reason names it."""
    other = Reply("", (Call("c", "python", "{}"),), False, False, 1, 1)
    assert ToolDialogue().actions(other) == [Malformed("call of an unknown tool 'python'")]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is \\boxed{Bo} or rather \\boxed{Bora}.", "Bora"),
        ("So: <answer> Bora </answer>", "Bora"),
        ("<answer> \\boxed{Bora} </answer>", "Bora"),
        ("Bora", "Bora"),
        ("<think>\\boxed{Mitu}?</think> Bora", "Bora"),
        (" <answer> </answer> \\boxed{}", "<answer> </answer> \\boxed{}"),
    ],
)
def test_the_answer_is_boxed_or_tagged_or_the_whole_message(text: str, answer: str) -> None:
    """In this order, and never out of a thought."""
    assert ToolDialogue().actions(reply(text)) == [Answer(answer)]


def test_what_is_no_answer_is_malformed() -> None:
    """An empty message, a thought alone, and a message cut off before it said its answer; a boxed one counts."""
    for text, cut in (("", False), ("<think>Bora</think>", False), ("The mentor of Kelo", True)):
        assert ToolDialogue().actions(reply(text, cut=cut)) == [Malformed("neither a tool call nor an answer")]
    assert ToolDialogue().actions(reply("\\boxed{Bora} beca", cut=True)) == [Answer("Bora")]


def test_a_transcript_has_every_message() -> None:
    """Text, calls and results, in order."""
    messages = [
        ToolDialogue().message(reply("Let me see.", '{"query": "kelo"}')),
        {"role": "tool", "tool_call_id": "c0", "content": "<result>\nno results\n</result>\n"},
        {"role": "assistant", "content": "Bora"},
    ]
    assert transcript(messages) == (
        "Let me see.\n"
        '<tool_call> {"name": "search", "arguments": "{\\"query\\": \\"kelo\\"}"} </tool_call>\n'
        "<result>\nno results\n</result>\n\n"
        "Bora"
    )
