"""Play the paper's search agent as one of verl's agent loops: the tag protocol over our retrieval.

verl runs one coroutine per rollout; `SearchAgent` plays one rollout in a thread of its own and asks the rollout server
through the coroutine's event loop. What was sampled is what is trained on: tokens are never decoded and encoded again.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.utils.profiler import simple_timer

from a2tgpo.environments.search import SearchTool
from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.gold_answers import gold_answers
from a2tgpo.integrations.verl.queue_rows import LIKELIHOOD, record_fields
from a2tgpo.integrations.verl.refusals import AGENT_LOOP, TOOL_LOOP, select
from a2tgpo.integrations.verl.server_scoring import server_likelihood
from a2tgpo.retrieval.bm25 import BM25Retriever
from a2tgpo.retrieval.retriever import Retriever
from a2tgpo.retrieval.source import open_retriever
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.engine import Turn
from a2tgpo.rollout.lockstep_engine import LockstepEngine, TurnSampling
from a2tgpo.rollout.types import Rollout

MOST_ROLLOUTS = 1024
"""Rollouts that one agent loop worker plays at a time; each holds a thread that mostly waits."""

_threads = ThreadPoolExecutor(MOST_ROLLOUTS, thread_name_prefix="a2tgpo-rollout")
_opening = threading.Lock()


@register(AGENT_LOOP)
class SearchAgentLoop(AgentLoopBase):
    """Play a rollout of `SearchAgent`, bounded and equipped as the keys `+a2tgpo.*` say.

    The reward is the paper's (`exact_match_reward`) unless `reward.custom_reward_function.path` names another. A
    rollout whose search failed gets 0 and is excluded from the loss.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = TurnCreditSettings.of(self.config.get("a2tgpo"))

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Play one rollout of a row of the data set."""
        server = _ServerTokens(self.server_manager, sampling_params, asyncio.get_running_loop())
        timing: dict[str, float] = {}
        with simple_timer("generate_sequences", timing):
            play = functools.partial(self._play, list(row["raw_prompt"]), server)
            rollout = await asyncio.get_running_loop().run_in_executor(_threads, play)
        reward, extra = self._reward(rollout, row)
        if self.settings.gain_method == "server":
            tokens = (rollout.prompt_ids, rollout.completion_ids, rollout.model_mask)
            extra[LIKELIHOOD] = await _score(self, tokens, row)
        return AgentLoopOutput(
            prompt_ids=rollout.prompt_ids,
            response_ids=rollout.completion_ids,
            response_mask=rollout.model_mask,
            response_logprobs=rollout.logps or None,
            num_turns=2 * len(rollout.calls) + 2,
            reward_score=reward,
            metrics=timing,
            extra_fields={**server.versions, **extra, **record_fields(rollout), "turn_scores": [], "tool_rewards": []},
        )

    def _play(self, prompt: list[dict[str, Any]], server: _ServerTokens) -> Rollout:
        settings, data = self.settings, self.config.data
        with _opening:  # one thread opens it for all
            retriever = _retriever(
                *(settings.corpus, settings.retriever, settings.title_weight),
                *(settings.search_timeout_s, settings.search_cache),
            )
        agent = SearchAgent(
            self.tokenizer,
            SearchTool(retriever, k=settings.passages_per_search, timeout_s=settings.search_timeout_s),
            settings.limits(max_prompt_tokens=data.max_prompt_length, max_completion_tokens=data.max_response_length),
            settings.system_prompt,
            result_format=settings.result_format,
        )
        (rollout,) = agent.run([prompt], LockstepEngine(server, agent.protocol.stop_strings))
        return rollout

    def _reward(self, rollout: Rollout, row: dict[str, Any]) -> tuple[float | None, dict[str, Any]]:
        """Return the paper's reward, or None and leave it to the function that the configuration names."""
        if select(self.config, "reward.custom_reward_function.path"):
            return None, {}
        golds = gold_answers(row["reward_model"], f"row {row.get('index')}")
        reward = exact_match_reward([self.tokenizer.decode(rollout.completion_ids)], [golds], rollout=[rollout])[0]
        return reward or 0.0, {"reward_extra_info": {"acc": float(reward == 1.0)}}


@register(TOOL_LOOP)
class ScoredToolAgentLoop(ToolAgentLoop):
    """Play a rollout of verl's `tool_agent`, and have the rollout server score the answer behind each of its turns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = TurnCreditSettings.of(self.config.get("a2tgpo"))

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Play one rollout of a row of the data set."""
        output = await super().run(sampling_params, **row)
        if self.settings.gain_method == "server":
            tokens = (output.prompt_ids, output.response_ids, output.response_mask)
            output.extra_fields[LIKELIHOOD] = await _score(self, tokens, row)
        return output


async def _score(
    loop: SearchAgentLoop | ScoredToolAgentLoop,
    tokens: tuple[list[int], list[int], list[int]],
    row: dict[str, Any],
) -> list[float]:
    """Return the likelihood at each turn boundary of a rollout, given its prompt, response and response mask."""
    golds = gold_answers(row["reward_model"], f"row {row.get('index')}")

    async def ask(ids: list[int], sampling: dict[str, Any]) -> Any:
        return await loop.server_manager.generate(request_id=uuid4().hex, prompt_ids=ids, sampling_params=sampling)

    return await server_likelihood(ask, *tokens, golds, loop.settings.scorer(loop.tokenizer))


class _ServerTokens:
    """Continue a token sequence on verl's rollout server: a `TokenEngine`, for a thread beside `loop`.

    Attributes:
        versions: versions of the weights that wrote the tokens so far, as verl's rows carry them.
    """

    def __init__(self, server: Any, sampling_params: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._sampling, self._loop = server, sampling_params, loop
        self._session = uuid4().hex  # turns of a rollout go to the server that has its KV cache
        self.versions: dict[str, Any] = {}

    def generate(self, prompts: list[list[int]], sampling: TurnSampling) -> list[Turn]:
        """Write one turn after each prompt."""
        return [self._write(prompt, sampling) for prompt in prompts]

    def _write(self, prompt: list[int], sampling: TurnSampling) -> Turn:
        params = {
            **self._sampling,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop_strings),
            "include_stop_str_in_output": True,
        }
        asked = self._server.generate(request_id=self._session, prompt_ids=prompt, sampling_params=params)
        written = asyncio.run_coroutine_threadsafe(asked, self._loop).result()
        found = written.extra_fields
        first = self.versions.get("min_global_steps", found.get("min_global_steps"))
        self.versions |= {"min_global_steps": first, "max_global_steps": found.get("max_global_steps")}
        return Turn(list(written.token_ids), logps=list(written.log_probs or []))


@functools.cache
def _retriever(
    corpus: str | None, source: str | None, title_weight: int, timeout_s: float, cache: str | None
) -> Retriever:
    """Open the retriever, once in a process."""
    if source is not None:
        return open_retriever(source, timeout_s, corpus=corpus, cache=cache)
    assert corpus is not None, "checked before the run starts"
    return BM25Retriever.build(corpus, title_weight=title_weight)
