"""Evaluate a model behind an OpenAI-compatible server, many conversations at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from a2tgpo.chat_client import ChatClient
from a2tgpo.chat_reply import ModelFailure, Reply
from a2tgpo.environments.environment import Action, Observation
from a2tgpo.environments.episodes import EnvironmentSource, EpisodeOutcome, Episodes
from a2tgpo.errors import RecipeError, ToolError
from a2tgpo.evaluate.dialogue import DIALOGUES, Dialogue, Message, transcript
from a2tgpo.evaluate.outcome import Asked, Outcome, episode_reward
from a2tgpo.files import whole_text
from a2tgpo.gold import read_aliases
from a2tgpo.redact import redact, remember_secrets
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import RolloutLimits
from a2tgpo.rollout.protocol import RESULT_FORMAT, Answer, Ending, judge_turn, neutralise, render_result
from a2tgpo.rollout.types import NOT_THE_POLICYS, Termination

_CHARACTERS_PER_TOKEN = 4
"""Of English, roughly: the server's tokenizer is unknown, and passages must be cut before they are sent."""


def _estimated_tokens(text: str) -> int:
    return len(text) // _CHARACTERS_PER_TOKEN


def open_server_policy(
    base_url: str,
    model: str,
    environment: EnvironmentSource,
    limits: RolloutLimits,
    *,
    protocol: str,
    api_key_env: str | None,
    timeout_s: float,
    **settings: Any,
) -> ServerPolicy:
    """Return the policy behind a server; `settings` are fields of `ServerPolicy`.

    Raises:
        RecipeError: the environment variable that should hold the key does not.
    """
    key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not key:
        raise RecipeError(f"api_key_env={api_key_env!r}: no such environment variable, or an empty one")
    remember_secrets([key] if key else [])
    return ServerPolicy(
        make_client=lambda: ChatClient(base_url, key, model, timeout_s),
        dialogue=DIALOGUES[protocol](environment.tools),
        environment=environment,
        limits=limits,
        **settings,
    )


@dataclass
class _Conversation:
    prompt: list[Message]
    episodes: Episodes
    said: list[Message] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ended: EpisodeOutcome = field(default_factory=EpisodeOutcome)
    prompt_tokens: int = 0
    policy_tokens: int = 0
    total_tokens: int = 0
    ending: Ending | None = None

    def hear(self, reply: Reply, message: Message) -> None:
        """Append what the model said; tokens that the server has not counted are estimated."""
        before, now = reply.prompt_tokens, reply.completion_tokens
        if before is None:
            before = _estimated_tokens(transcript([*self.prompt, *self.said]))
        if now is None:
            now = _estimated_tokens(transcript([message]))
        self.said.append(message)
        self.prompt_tokens = self.prompt_tokens or before
        self.policy_tokens += now
        self.total_tokens = before + now

    def show(self, result: Message) -> None:
        """Append a result; its tokens are estimated until the server has counted them."""
        self.said.append(result)
        self.total_tokens += _estimated_tokens(result["content"])

    def outcome(self, asked: Asked, *, gives_reward: bool) -> Outcome:
        assert self.ending is not None
        row, given = asked.row, self.ended.reward
        if given is None and self.rewards:
            given = sum(self.rewards)
        revealed = read_aliases(self.ended.answer, f"row {row['id']!r}")
        return Outcome.of(
            {**row, "answer": row["answer"] or revealed},
            prediction=self.ending.answer,
            termination=self.ending.termination.value,
            reason=self.ending.reason,
            searches=len(self.queries),
            queries=self.queries,
            policy_tokens=self.policy_tokens,
            total_tokens=self.total_tokens,
            text=transcript(self.said),
            sample=asked.sample,
            success=self.ended.success,
            reward=episode_reward(given, row, self.ending.termination, gives_reward=gives_reward),
        )


@dataclass(frozen=True)
class ServerPolicy:
    """Answer with a chat server.

    Token counts are the server's, or estimated at four characters a token where it gives none. `max_turn_tokens`
    bounds each request, `max_completion_tokens` everything after the prompt; `passage_tokens` cuts passages at four
    characters a token, and prompts are as long as the server takes.

    Args:
        make_client: opens the connection; called once for each `answer`.
        dialogue: how the model calls tools and answers.
        environment: answers the calls, each conversation in an episode of its own.
        limits: token and turn budgets.
        system_prompt: None for the dialogue's own, empty for none.
        temperature: 0 for greedy; what else shapes the choice (top-k, penalties) is the server's own default.
        seed: of the samples.
        concurrency: conversations at a time.
        instruction: what the user's message says, with one `{question}`; None for the question alone.
        result_format: how a result shows a passage; None for `RESULT_FORMAT`.
        observation_tokens: cuts an answer that is text; None for three times `passage_tokens`.
        gives_reward: see `episode_reward`.
    """

    make_client: Callable[[], ChatClient]
    dialogue: Dialogue
    environment: EnvironmentSource
    limits: RolloutLimits
    system_prompt: str | None
    temperature: float
    seed: int
    concurrency: int
    instruction: str | None = None
    result_format: str | None = None
    observation_tokens: int | None = None
    gives_reward: bool = False

    def answer(self, asked: Sequence[Asked], done: Callable[[Outcome], None]) -> None:
        asyncio.run(self._answer_all(asked, done))

    async def _answer_all(self, asked: Sequence[Asked], done: Callable[[Outcome], None]) -> None:
        client, waiting = self.make_client(), iter(asked)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(asked))):
                    group.create_task(self._work(client, waiting, done))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await client.close()

    async def _work(self, client: ChatClient, waiting: Iterator[Asked], done: Callable[[Outcome], None]) -> None:
        for asked in waiting:
            done(await self._converse(client, asked))

    async def _converse(self, client: ChatClient, asked: Asked) -> Outcome:
        episodes = self.environment.open(branching=False)
        try:
            return (await self._play(client, asked, episodes)).outcome(asked, gives_reward=self.gives_reward)
        finally:
            episodes.close()

    async def _play(self, client: ChatClient, asked: Asked, episodes: Episodes) -> _Conversation:
        begun = (await asyncio.to_thread(episodes.reset, {0: asked.row}))[0]
        talk = _Conversation(self._prompt(asked.row, begun), episodes)
        if isinstance(begun, ToolError):
            talk.ending = Ending(Termination.TOOL_FAILED, f"reset: {begun}")
            return talk
        sampling = {"temperature": self.temperature}
        if self.temperature:
            sampling["seed"] = asked.seed(self.seed)
        try:
            while talk.ending is None:
                await self._take_turn(client, talk, sampling)
        except ModelFailure as failure:
            talk.ending = Ending(Termination.MODEL_FAILED, redact(str(failure)))
        if talk.ending.termination not in NOT_THE_POLICYS:
            try:
                closes = talk.ending.termination in (Termination.ANSWERED, Termination.MALFORMED)
                closing = str(talk.said[-1]["content"] or "") if closes else None
                talk.ended = await asyncio.to_thread(episodes.outcome, 0, closing)
            except Exception as failure:
                reason = f"after the episode: {type(failure).__name__}: {failure}"
                talk.ending = Ending(Termination.TOOL_FAILED, redact(reason))
        return talk

    def _prompt(self, row: Mapping[str, Any], begun: str | ToolError | None) -> list[Message]:
        system = self.dialogue.instruction if self.system_prompt is None else self.system_prompt
        asked = row.get("prompt") or row["question"]
        if isinstance(asked, str):
            said = asked if self.instruction is None else self.instruction.replace("{question}", asked)
            asked = [{"role": "user", "content": said}]
        if isinstance(begun, str):
            asked = [*asked[:-1], {**asked[-1], "content": f"{asked[-1]['content']}{begun}"}]
        told = asked[0]["role"] == "system" or not system
        return [*([] if told else [{"role": "system", "content": system}]), *asked]

    async def _take_turn(self, client: ChatClient, talk: _Conversation, sampling: dict[str, float]) -> None:
        """Let the model write, make its calls, show their results."""
        budget = min(self.limits.max_turn_tokens, self._tokens_left(talk))
        reply = await client.complete(
            [*talk.prompt, *talk.said], max_tokens=budget, **sampling, **self.dialogue.options
        )
        talk.hear(reply, self.dialogue.message(reply))
        for index, action in enumerate(self.dialogue.actions(reply)):
            if isinstance(action, Answer):
                action = self.dialogue.check_answer(action, talk.said)
            if isinstance(action, Action):
                n = len(talk.queries)
                if n < self.limits.max_searches:
                    talk.ending = await self._call(talk, reply, index, action)
                else:
                    said = (
                        f"{action.tool} {action.text!r} after {n} {'searches' if action.tool == 'search' else 'calls'}"
                    )
                    talk.ending = Ending(Termination.OUT_OF_TURNS, said)
            else:
                ending = judge_turn(action, len(talk.queries), self.limits.max_searches, cut=reply.cut)
                assert isinstance(ending, Ending)
                talk.ending = ending
            if talk.ending is not None:
                return

    async def _call(self, talk: _Conversation, reply: Reply, index: int, action: Action) -> Ending | None:
        talk.episodes.submit(0, [action])
        answered = (await asyncio.to_thread(talk.episodes.collect, idle=True))[0]
        if isinstance(answered, ToolError):
            return Ending(Termination.TOOL_FAILED, f"{action.tool} {action.text!r}: {answered}")
        (answer,) = answered
        talk.queries.append(action.text)
        talk.rewards += [] if answer.reward is None else [float(answer.reward)]
        if not (answer.done and answer.observation == ""):
            talk.show(self.dialogue.result(reply, index, self._shown(answer.observation)))
        if answer.done:
            return Ending(Termination.ENVIRONMENT_DONE)
        if self._tokens_left(talk) < 1:
            return Ending(Termination.OUT_OF_TOKENS, f"the result of {action.tool} {action.text!r} does not fit")
        return None

    def _shown(self, observed: Observation) -> str:
        """Render what the environment says, cut, and unable to speak the protocol."""
        if not isinstance(observed, str):
            return render_result(map(self._cut, observed), self.result_format or RESULT_FORMAT)
        most = (self.observation_tokens or 3 * self.limits.passage_tokens) * _CHARACTERS_PER_TOKEN
        tools = tuple(tool.name for tool in self.environment.tools)
        return f"<result>\n{neutralise(whole_text(observed[:most]), (), tools)}\n</result>\n"

    def _cut(self, passage: Passage) -> Passage:
        return replace(passage, text=passage.text[: self.limits.passage_tokens * _CHARACTERS_PER_TOKEN])

    def _tokens_left(self, talk: _Conversation) -> int:
        return self.limits.max_completion_tokens - (talk.total_tokens - talk.prompt_tokens)
