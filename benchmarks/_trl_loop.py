"""Run TRL's own tool loop, speaking the tag protocol: the reference that rollouts are measured against.

Nothing of TRL's is replaced. Its loop asks the tokenizer to parse a turn into tool calls and to render a tool's answer;
those two are taught the protocol here, and the closing tags are named as tokens that end a turn.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.protocol import STOP_STRINGS, Search, parse_turn

# Rendering the calls satisfies TRL's check of the template; the turns themselves keep the tokens that were sampled.
_ROLES = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ message['content'] }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endif %}"
    "{% for call in message['tool_calls'] or [] %}{{ call['function'] }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'tool' %}{{ '<|assistant|>' }}{% endif %}"
)


def closing_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the closing tags as tokens, each of which must be one, since TRL's loop stops at tokens only."""
    ids = [tokenizer(stop, add_special_tokens=False)["input_ids"] for stop in STOP_STRINGS]
    if any(len(tag) != 1 for tag in ids):
        raise ValueError(f"closing tags {STOP_STRINGS} are {ids}: TRL's loop needs a tokenizer with each as one token")
    return [tag[0] for tag in ids]


QueryOf = Callable[[list[int]], str | None]
"""Read from the tokens of a turn which words it searches for; None where it does not search."""


def search_tool(agent: SearchAgent) -> Callable[[str], str]:
    """Return the agent's search as a tool of TRL's."""

    def search(query: str) -> str:
        """Search the corpus.

        Args:
            query: What to look for.

        Returns:
            The passages found.
        """
        return agent.tokenizer.decode(agent.encode_observation(agent.search([query])[0]))

    return search


def tool_tokenizer(tokenizer: PreTrainedTokenizerBase, query_of: QueryOf) -> PreTrainedTokenizerBase:
    """Return `tokenizer` with a template of bare texts, which reads a turn's call of `search_tool` by `query_of`."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = _ROLES

    def parse_response(ids: list[int], **_: Any) -> dict[str, Any]:
        query = query_of(ids)
        message: dict[str, Any] = {"role": "assistant", "content": tokenizer.decode(ids)}
        if query is not None:
            call = {"name": "search", "arguments": {"query": query}}
            message["tool_calls"] = [{"type": "function", "function": call}]
        return message

    tokenizer.response_template = {"protocol": "tags"}
    tokenizer.parse_response = parse_response
    return tokenizer


class TRLToolLoop:
    """Run a `GRPOTrainer`'s generation with `tools=[search]` on the questions and budgets of `agent`.

    Turns have no budget of their own but `turn_tokens`; `query_of` reads them otherwise than the tag protocol does.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        agent: SearchAgent,
        *,
        greedy: bool,
        turn_tokens: int | None = None,
        query_of: QueryOf | None = None,
        trainer: type[GRPOTrainer] = GRPOTrainer,
        config_of: type[GRPOConfig] = GRPOConfig,
        **config: Any,
    ) -> None:
        model = copy.deepcopy(model)
        ends = [agent.tokenizer.eos_token_id, *closing_tokens(agent.tokenizer)]
        # TRL takes the tokens that end a turn from here.
        model.generation_config.eos_token_id = ends
        generation = {"do_sample": False} if greedy else {}
        generation |= {"max_new_tokens": turn_tokens} if turn_tokens is not None else {}
        self._trainer = trainer(
            model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config_of(
                output_dir=tempfile.mkdtemp(prefix="trl-loop-"),
                max_completion_length=agent.limits.max_completion_tokens - 1,
                max_tool_calling_iterations=agent.limits.max_searches,
                generation_kwargs=generation or None,
                report_to="none",
                **config,
            ),
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "?"}], "answer": "?"}]),
            processing_class=tool_tokenizer(agent.tokenizer, query_of or partial(_searched, agent.tokenizer)),
            tools=[search_tool(agent)],
        )

    def run(self, questions: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Return completion ids, observations included, and the mask of the policy's, of one rollout per question."""
        tools = {tool.__name__: tool for tool in self._trainer.tools}
        self._trainer._sync_tool_dicts = [tools] * len(questions)
        self._trainer._async_tool_dicts = [{}] * len(questions)
        generated = self._trainer._generate([[{"role": "user", "content": question}] for question in questions])
        return list(zip(generated[1], generated[2], strict=True))


def _searched(tokenizer: PreTrainedTokenizerBase, turn: list[int]) -> str | None:
    action = parse_turn(tokenizer.decode(turn))
    return action.query if isinstance(action, Search) else None
