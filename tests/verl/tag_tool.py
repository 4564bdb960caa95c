"""What a user of verl's `tool_agent` brings beside a tool: how calls are parsed, a chat template, and a reward.

The calls are the paper's tags, since that is what the embedded policy writes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser

from a2tgpo.rewards import exact_match_reward

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ message['content'] }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'tool' %}{{ '<|assistant|>' }}{% endif %}"
)
"""The embedded policy's template, and a tool's words as they are."""


@ToolParser.register("tags")
class TagParser(ToolParser):
    """Read a call from `<search> query </search>`."""

    @property
    def stop_token_ids(self) -> list[int]:
        return [self.tokenizer.convert_tokens_to_ids("</search>")]

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        text = self.tokenizer.decode(responses_ids)
        calls = re.findall(r"<search>(.*?)</search>", text)
        return text, [FunctionCall(name="search", arguments=json.dumps({"query": call.strip()})) for call in calls]


def compute_score(data_source: str, solution_str: str, ground_truth: Any, **_: Any) -> float:
    """The paper's reward, by the signature that verl calls."""
    (reward,) = exact_match_reward([solution_str], [list(ground_truth)])
    return float(reward or 0.0)
