"""The paper's outcome reward: its format rule over whole responses, in every form in which they reach it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.types import Rollout, Termination

THOUGHT, SEARCH, ANSWER = "<think> a </think>", "<search> kelo </search>", "<answer> \\boxed{Bora} </answer>"

TABLE = [
    # the plain protocol
    ([f"{THOUGHT} {SEARCH}", f"{THOUGHT} {ANSWER}"], 1.0),
    ([f"{THOUGHT} {ANSWER}"], 1.0),
    ([f"{THOUGHT} <answer> \\boxed{{the BORA.}} </answer>"], 1.0),
    ([f"{THOUGHT} <answer> \\boxed{{Kelo}} </answer>"], 0.0),
    # all that the two equations do not ask for
    ([f"{THOUGHT} {SEARCH}", SEARCH, ANSWER], 1.0),  # turns without a thought after one that thought
    ([SEARCH, f"{THOUGHT} {ANSWER}"], 1.0),
    ([f"Well. {THOUGHT} So: {ANSWER}"], 1.0),  # words between blocks
    ([f"{THOUGHT} {THOUGHT} {ANSWER}"], 1.0),  # two thoughts in a turn
    ([f"{THOUGHT} {ANSWER} That is all."], 1.0),  # words after the answer
    ([f"{ANSWER} {THOUGHT}"], 1.0),
    ([f"<think></think>{ANSWER}"], 1.0),
    ([f"{THOUGHT} <answer> The mentor is \\boxed{{Bora}}, I think. </answer>"], 1.0),
    ([f"{THOUGHT} <answer> \\boxed{{Kelo}} or \\boxed{{Bora}} </answer>"], 1.0),  # the last box counts
    ([f"{THOUGHT} <answer> \\boxed{{Kelo}} </answer> no: {ANSWER}"], 1.0),
    ([f"{THOUGHT} <answer> \\boxed{{\\text{{Bora}}}} </answer>"], 1.0),
    ([f"{THOUGHT} <answer> \\boxed{{\\textbf{{\\text{{Bora}}}}\\ }} </answer>"], 1.0),
    # an empty box is an answer, and wrong
    ([f"{THOUGHT} <answer> \\boxed{{}} </answer>"], 0.0),
    ([f"{THOUGHT} <answer> \\boxed{{ \\text{{ }} }} </answer>"], 0.0),
    # what they do ask for is missing
    ([""], -1.0),
    (["Bora"], -1.0),
    (["\\boxed{Bora}"], -1.0),
    ([f"{THOUGHT} \\boxed{{Bora}}"], -1.0),  # no answer block
    ([f"{THOUGHT} <answer> Bora </answer>"], -1.0),  # no box
    ([f"{THOUGHT} <answer> \\boxed{{Bora </answer>"], -1.0),  # a box that nobody closed
    ([f"{THOUGHT} <answer> \\boxed Bora </answer>"], -1.0),
    ([f"{THOUGHT} \\boxed{{Bora}} <answer> Bora </answer>"], -1.0),  # the box is elsewhere
    ([ANSWER], -1.0),  # no thought
    ([SEARCH, ANSWER], -1.0),
    ([f"<think> a {ANSWER}"], -1.0),  # a thought that nobody closed
    ([f"a </think> {ANSWER}"], -1.0),  # or opened
    ([f"{THOUGHT} <answer> \\boxed{{Bora}}"], -1.0),  # cut off
    ([f"{THOUGHT} {SEARCH}", f"{THOUGHT} {SEARCH}"], -1.0),  # no answer
    # a thought is no answer
    ([f"<think> perhaps {ANSWER} </think>"], -1.0),
    ([f"<think> perhaps {ANSWER} </think> <answer> \\boxed{{Kelo}} </answer>"], 0.0),
    ([f"<think> not <answer> \\boxed{{Kelo}} </answer> </think> {ANSWER}"], 1.0),
]
"""Turns of a response and its reward where Bora is right."""


def of_record(turns: list[str], termination: Termination = Termination.MALFORMED) -> float | None:
    """The reward of our own record of such a rollout, however it ended."""
    record = Rollout([1], termination=termination, turn_texts=turns)
    return exact_match_reward(["not read"], ["Bora"], rollout=[record])[0]


def of_messages(turns: list[str]) -> float | None:
    """The reward in TRL's own tool loop, the results of tools between the turns."""
    between = {"role": "tool", "name": "search", "content": f"{THOUGHT} {ANSWER}"}
    messages = [part for turn in turns for part in ({"role": "assistant", "content": turn}, between)]
    return exact_match_reward([messages], ["Bora"])[0]


@pytest.mark.parametrize(("turns", "reward"), TABLE, ids=[" / ".join(turns) for turns, _ in TABLE])
def test_the_rule_by_hand(turns: list[str], reward: float) -> None:
    """Equations 14 and 15: the same for a text, for our record and for messages; what tools say is never scored, nor
    does the ending of a rollout matter."""
    assert exact_match_reward(["\n".join(turns)], answer=["Bora"]) == [reward]
    assert of_record(turns) == of_record(turns, Termination.ANSWERED) == reward
    if turns != [f"a </think> {ANSWER}"]:  # of messages nobody says what the prompt opened
        assert of_messages(turns) == reward


_words = st.sampled_from(
    ["", "Well.", "I see: ", "\n", "\\boxed{Bora}", "Bora", "[1] Kelo", "<b>", "{", "</", "</search>"]
)
_turns = st.lists(st.tuples(_words, st.integers(0, 2), _words, st.booleans(), _words), max_size=4)
_answers = {
    None: -1.0,
    "\\boxed{Bora}": 1.0,
    "it is \\boxed{bora}.": 1.0,
    "\\boxed{\\text{Bora}}": 1.0,
    "\\boxed{Mitu} or \\boxed{Bora}": 1.0,
    "\\boxed{Mitu}": 0.0,
    "\\boxed{}": 0.0,
    "\\boxed{Bora": -1.0,
    "Bora": -1.0,
}


@given(_turns, st.sampled_from(list(_answers)), st.integers(0, 2), _words, _words)
def test_only_a_thought_and_a_boxed_answer_count(
    turns: list[tuple[str, int, str, bool, str]], answer: str | None, thoughts: int, before: str, after: str
) -> None:
    """Of any number of turns with any number of thoughts, searches and words around them, the reward is the answer's if
    some turn has a thought, and −1 otherwise."""
    texts = [f"{first}{THOUGHT * n}{second}{SEARCH * searches}{third}" for first, n, second, searches, third in turns]
    last = f"{THOUGHT * thoughts}{before}" + (f"<answer>{answer}</answer>{after}" if answer is not None else after)
    thought = thoughts > 0 or any(n for _, n, *_ in turns)
    expected = _answers[answer] if thought else -1.0
    assert exact_match_reward(["\n".join([*texts, last])], ["Bora"]) == [expected]
    assert of_record([*texts, last]) == expected == of_messages([*texts, last])


def test_any_alias_counts() -> None:
    """`answer` holds a text or a list of aliases per rollout, in the order of the completions."""
    completions = [f"{THOUGHT} <answer> \\boxed{{{text}}} </answer>" for text in ("ab", "ab", "a")]
    assert exact_match_reward(completions, answer=["ab", ["x", "AB"], ["ab"]]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_in_a_field_of_their_own(field: str) -> None:
    """TRL's response templates move a message's thought there (`thinking` for LFM 2): it counts, in any message; an
    empty one does not, and nothing in it is an answer."""
    call = {"role": "assistant", field: "I need kelo.", "tool_calls": [{"type": "function"}]}
    tool = {"role": "tool", "name": "search", "content": "Kelo"}

    def reward(*messages: dict[str, Any]) -> float | None:
        return exact_match_reward([list(messages)], ["Bora"])[0]

    assert reward(call, tool, {"role": "assistant", "content": ANSWER}) == 1.0
    assert reward({"role": "assistant", field: "Bora", "content": ANSWER}) == 1.0
    assert reward({"role": "assistant", field: "", "content": ANSWER}) == -1.0
    assert reward({"role": "assistant", field: ANSWER, "content": ""}) == -1.0
    assert reward(call, tool, {"role": "assistant", "content": None}) == -1.0
    assert reward(call, tool) == reward() == -1.0


def test_a_message_may_come_in_parts() -> None:
    """Models that see images have lists of parts as content."""
    parts = [{"type": "text", "text": THOUGHT}, {"type": "image"}, {"type": "text", "text": ANSWER}]
    assert exact_match_reward([[{"role": "assistant", "content": parts}]], ["Bora"]) == [1.0]


def test_a_thought_that_the_prompt_opened() -> None:
    """As if the tag stood before the turn: where the prompt is text and ends in it, and in every message, as the chat
    template behind messages is not to be seen here; a thought that is not closed is none."""
    opened, closed = f"a </think> {ANSWER}", ANSWER

    def reward(completion: str, prompt: str) -> float | None:
        return exact_match_reward([completion], ["Bora"], prompts=[prompt])[0]

    assert reward(opened, "Who?<|im_start|>assistant\n<think>\n") == 1.0
    assert reward(opened, "Who? <think> is a tag.") == reward(closed, "Who?<think>") == -1.0
    assert of_messages([opened]) == of_messages([f"a </think> {SEARCH}", ANSWER]) == 1.0
    assert of_messages([closed]) == -1.0


def test_records_made_by_hand_decide_by_their_ending() -> None:
    """A record without the text of its turns is scored by its answer; one that the tool failed has no reward, whatever
    it says, which TRL leaves out of the baseline."""
    endings = [Termination.MALFORMED, Termination.OUT_OF_TURNS, Termination.OUT_OF_TOKENS, Termination.TOOL_FAILED]
    records = [
        Rollout([1], termination=Termination.ANSWERED, answer="bora"),
        Rollout([1], termination=Termination.ANSWERED, answer="kelo"),
        *(Rollout([1], termination=ending) for ending in endings),
        Rollout([1], termination=Termination.TOOL_FAILED, turn_texts=[f"{THOUGHT} {ANSWER}"]),
    ]
    completions = [f"{THOUGHT} {ANSWER}"] * len(records)
    rewards = exact_match_reward(completions, ["bora"] * len(records), rollout=records, trainer_state=None)
    assert rewards == [1.0, 0.0, -1.0, -1.0, -1.0, None, None]


def test_messages_as_trl_parses_them() -> None:
    """Qwen3's turns through TRL's own response parser, prompt and all: the thought it takes out counts, in the answer's
    message or in one before, and there is none where the model wrote none."""
    utils = pytest.importorskip("trl.chat_template_utils", reason="pip install 'a2tgpo[trl]'")
    from tests.integrations.parts import qwen_tokenizer

    tokenizer = utils.add_response_schema(qwen_tokenizer())
    asked = [{"role": "user", "content": "Who?"}]
    prefix = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)

    def parsed(text: str) -> dict[str, Any]:
        ids = tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"]
        message: dict[str, Any] = utils.parse_response(tokenizer, ids, prefix=prefix)
        return message

    call = '<tool_call>\n{"name": "search", "arguments": {"query": "kelo"}}\n</tool_call>'
    thought, silent = parsed(f"<think>\nI need kelo.\n</think>\n\n{call}"), parsed(call)
    result = {"role": "tool", "name": "search", "content": "Kelo"}
    assert thought["tool_calls"] and "<think>" not in str(thought)
    for messages, reward in (
        ([parsed(f"<think>\na\n</think>\n\n{ANSWER}")], 1.0),
        ([thought, result, parsed(ANSWER)], 1.0),
        ([silent, result, parsed(ANSWER)], -1.0),
        ([thought, result, silent, result], -1.0),
    ):
        assert exact_match_reward([messages], ["Bora"]) == [reward]
