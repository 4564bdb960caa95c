"""Evaluate a model behind an OpenAI-compatible server, many conversations at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from a2tgpo.chat_client import ChatClient
from a2tgpo.chat_reply import ModelFailure, Reply
from a2tgpo.errors import ToolError
from a2tgpo.evaluate.dialogue import Dialogue, Message, transcript
from a2tgpo.evaluate.outcome import Asked, Outcome
from a2tgpo.redact import redact
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import BatchedSearch, RolloutLimits
from a2tgpo.rollout.protocol import RESULT_FORMAT, Answer, Ending, Search, judge_turn, render_result, tool_failure
from a2tgpo.rollout.types import Termination

_CHARACTERS_PER_TOKEN = 4
"""Of English, roughly: the server's tokenizer is unknown, and passages must be cut before they are sent."""


def _estimated_tokens(text: str) -> int:
    return len(text) // _CHARACTERS_PER_TOKEN


@dataclass
class _Conversation:
    prompt: list[Message]
    said: list[Message] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
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

    def outcome(self, asked: Asked) -> Outcome:
        assert self.ending is not None
        return Outcome.of(
            asked.row,
            prediction=self.ending.answer,
            termination=self.ending.termination.value,
            reason=self.ending.reason,
            searches=len(self.queries),
            queries=self.queries,
            policy_tokens=self.policy_tokens,
            total_tokens=self.total_tokens,
            text=transcript(self.said),
            sample=asked.sample,
        )


@dataclass(frozen=True)
class ServerPolicy:
    """Answer with a chat server.

    Token counts are the server's, or estimated at four characters a token where it gives none. `max_turn_tokens`
    bounds each request, `max_completion_tokens` everything after the prompt; `passage_tokens` cuts passages at four
    characters a token, and prompts are as long as the server takes.

    Args:
        make_client: opens the connection; called once for each `answer`.
        dialogue: how the model searches and answers.
        search: batched search; raises `ToolError` when it fails.
        limits: token and turn budgets.
        system_prompt: None for the dialogue's own, empty for none.
        temperature: 0 for greedy; what else shapes the choice (top-k, penalties) is the server's own default.
        seed: of the samples.
        concurrency: conversations at a time.
        instruction: what the user's message says, with one `{question}`; None for the question alone.
        result_format: how a result shows a passage; None for `RESULT_FORMAT`.
    """

    make_client: Callable[[], ChatClient]
    dialogue: Dialogue
    search: BatchedSearch
    limits: RolloutLimits
    system_prompt: str | None
    temperature: float
    seed: int
    concurrency: int
    instruction: str | None = None
    result_format: str | None = None

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
        talk = _Conversation(self._prompt(asked.row["question"]))
        sampling = {"temperature": self.temperature}
        if self.temperature:
            sampling["seed"] = asked.seed(self.seed)
        try:
            while talk.ending is None:
                await self._take_turn(client, talk, sampling)
        except ModelFailure as failure:
            talk.ending = Ending(Termination.MODEL_FAILED, redact(str(failure)))
        return talk.outcome(asked)

    def _prompt(self, question: str) -> list[Message]:
        system = self.dialogue.instruction if self.system_prompt is None else self.system_prompt
        asked = question if self.instruction is None else self.instruction.replace("{question}", question)
        return [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": asked}]

    async def _take_turn(self, client: ChatClient, talk: _Conversation, sampling: dict[str, float]) -> None:
        """Let the model write, run its searches, show their results."""
        budget = min(self.limits.max_turn_tokens, self._tokens_left(talk))
        reply = await client.complete(
            [*talk.prompt, *talk.said], max_tokens=budget, **sampling, **self.dialogue.options
        )
        talk.hear(reply, self.dialogue.message(reply))
        for index, action in enumerate(self.dialogue.actions(reply)):
            if isinstance(action, Answer):
                action = self.dialogue.check_answer(action, talk.said)
            verdict = judge_turn(action, len(talk.queries), self.limits.max_searches, cut=reply.cut)
            if isinstance(verdict, Search):
                talk.ending = await self._look_up(talk, reply, index, verdict.query)
            else:
                talk.ending = verdict
            if talk.ending is not None:
                return

    async def _look_up(self, talk: _Conversation, reply: Reply, index: int, query: str) -> Ending | None:
        try:
            (passages,) = await asyncio.to_thread(self.search, [query])
        except ToolError as error:
            return tool_failure(query, error)
        talk.queries.append(query)
        result = render_result(map(self._cut, passages), self.result_format or RESULT_FORMAT)
        talk.show(self.dialogue.result(reply, index, result))
        if self._tokens_left(talk) < 1:
            return Ending(Termination.OUT_OF_TOKENS, f"the result of search {query!r} does not fit")
        return None

    def _cut(self, passage: Passage) -> Passage:
        return replace(passage, text=passage.text[: self.limits.passage_tokens * _CHARACTERS_PER_TOKEN])

    def _tokens_left(self, talk: _Conversation) -> int:
        return self.limits.max_completion_tokens - (talk.total_tokens - talk.prompt_tokens)
