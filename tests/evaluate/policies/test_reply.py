"""Reading a server's answer: all that is there, nothing that is not."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.chat_reply import Call, ModelFailure, Reply, read_reply


def completion(message: dict[str, Any], finish_reason: str | None = "stop", **choice: Any) -> dict[str, Any]:
    """A chat completion as servers send it."""
    return {
        "choices": [{"message": message, "finish_reason": finish_reason, **choice}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    }


def test_text_calls_and_counts_are_read() -> None:
    """A message without content and with a call, as OpenAI sends it, and one with text that its budget cut off."""
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}
    body = json.dumps(completion({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"))
    assert read_reply(body) == Reply("", (Call("c1", "search", '{"query": "x"}'),), False, False, 12, 5)
    cut = read_reply(json.dumps(completion({"content": "I think"}, "length")))
    assert (cut.text, cut.cut, cut.may_lack_stop) == ("I think", True, False)


@pytest.mark.parametrize("stop_reason", [None, 2])
def test_a_server_that_says_why_it_stopped_is_believed(stop_reason: int | None) -> None:
    """vLLM gives the stop string, or null or a token for the end of the sequence, after which nothing was cut off;
    where nothing is said, a stop string may have been."""
    assert not read_reply(json.dumps(completion({"content": "x"}, stop_reason=stop_reason))).may_lack_stop
    assert read_reply(json.dumps(completion({"content": "x"}, stop_reason="</search>"))).may_lack_stop
    assert read_reply(json.dumps(completion({"content": "x"}))).may_lack_stop


def test_thoughts_that_the_server_took_out_are_put_back() -> None:
    """Reasoning parsers move `<think>` into a field of its own, which the tag protocol would miss."""
    for field in ("reasoning_content", "reasoning"):
        body = json.dumps(completion({"content": "<search> x", field: "hm"}))
        assert read_reply(body).text == "<think>hm</think><search> x"


def test_text_that_could_not_be_sent_on_is_made_harmless() -> None:
    """Half a surrogate pair is JSON but no UTF-8."""
    assert (
        read_reply(
            '{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}], "usage": '
            '{"prompt_tokens": 1, "completion_tokens": 1}}'
        ).text
        == "a?b"
    )


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>busy</html>", "null", "[]", "7", '{"choices": []}', '{"choices": {}}', "[" * 100_000),
        json.dumps({"choices": [{"finish_reason": "stop"}]}),
        json.dumps(completion({"content": 7})),
        json.dumps(completion({"content": "x", "tool_calls": 3})),
        json.dumps(completion({"content": "x", "tool_calls": [{"id": "c"}]})),
    ],
)
def test_what_is_no_completion_is_a_failure_that_shows_it(body: str) -> None:
    """Never an empty answer, never an error of another kind."""
    with pytest.raises(ModelFailure, match="not a chat completion"):
        read_reply(body)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "usage", "content", "tool_calls", "finish_reason", "function", "id"]
            ),
            inner,
            max_size=5,
        )
    ),
)


@given(_json)
def test_no_json_gets_through_as_anything_else(value: Any) -> None:
    """Whatever a server answers is a reply or a `ModelFailure`."""
    with contextlib.suppress(ModelFailure):
        assert isinstance(read_reply(json.dumps(value)), Reply)


def test_a_withheld_answer_is_a_failure() -> None:
    """A filter's empty text is not what the model said."""
    with pytest.raises(ModelFailure, match="content_filter"):
        read_reply(json.dumps(completion({"content": ""}, "content_filter")))
