"""Ask a judge the questions of a batch over its server, and keep its answers on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2tgpo.chat_client import ChatClient
from a2tgpo.chat_reply import ModelFailure, Reply, TooSlow
from a2tgpo.disk_cache import DiskCache
from a2tgpo.errors import JudgeError, PolicyServerError
from a2tgpo.redact import redact
from a2tgpo.signals.process_signal import Scored, TurnScores, Unscored
from a2tgpo.signals.verdict import BadVerdict, JudgeFailure


@dataclass(frozen=True)
class Question:
    """Hold what is asked of one rollout: the request, its key in the cache, the turns to score."""

    key: str
    messages: list[dict[str, Any]]
    n_turns: int


class Hearing:
    """Ask the questions of one batch, several at a time.

    Args:
        client: makes the connection; called in the event loop that uses it.
        read: makes scores of an answer's text; raises `BadVerdict`.
        keep: takes each text that gave scores.
        options: of each request.
        concurrency: requests at a time.
        counts: calls, tokens and failures are added to it.
    """

    def __init__(
        self,
        client: Callable[[], ChatClient],
        read: Callable[[Question, str], Scored],
        keep: Callable[[Question, str], None],
        options: Mapping[str, Any],
        concurrency: int,
        counts: dict[str, float],
    ) -> None:
        self._make_client, self._read, self._keep = client, read, keep
        self._options, self._concurrency, self._counts = options, concurrency, counts
        self._client: ChatClient
        self._results: dict[str, TurnScores] = {}
        self._gone: str | None = None

    async def ask_all(self, questions: Sequence[Question]) -> dict[str, TurnScores]:
        """Return what was found for each question, by key.

        Raises:
            JudgeError: the server refuses the key, the path or the model; or the cache cannot be used.
        """
        self._client, waiting = self._make_client(), iter(questions)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(questions))):
                    group.create_task(self._work(waiting))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await self._client.close()
        return self._results

    async def _work(self, waiting: Iterator[Question]) -> None:
        for question in waiting:
            try:
                self._results[question.key] = await self._ask(question)
            except BadVerdict as failure:
                self._counts[f"failed_{failure.kind}"] += 1
                self._results[question.key] = Unscored(redact(f"{failure.kind}: {failure}"))

    async def _ask(self, question: Question) -> Scored:
        """Ask, and ask once more where the answer cannot be read."""
        reply = await self._complete(question.messages)
        try:
            scored = self._read(question, reply.text)
        except BadVerdict as bad:
            self._counts["asked_again"] += 1
            again = f"That gives no scores: {bad}. Answer again, with the JSON object alone."
            said = [{"role": "assistant", "content": reply.text or "…"}, {"role": "user", "content": again}]
            reply = await self._complete([*question.messages, *said])
            scored = self._read(question, reply.text)
        self._keep(question, reply.text)
        return scored

    async def _complete(self, messages: list[dict[str, Any]]) -> Reply:
        if self._gone is not None:
            raise BadVerdict(JudgeFailure.SERVER, self._gone)
        self._counts["calls"] += 1
        try:
            reply = await self._client.complete(messages, **self._options)
        except TooSlow as failure:
            raise BadVerdict(JudgeFailure.TOO_SLOW, str(failure)) from failure
        except ModelFailure as failure:
            raise BadVerdict(JudgeFailure.SERVER, str(failure)) from failure
        except PolicyServerError as failure:
            if failure.refused:
                raise JudgeError(f"judge {self._client.model!r}: {failure}") from failure
            self._gone = str(failure)
            raise BadVerdict(JudgeFailure.SERVER, self._gone) from failure
        self._counts["tokens_in"] += reply.prompt_tokens or 0
        self._counts["tokens_out"] += reply.completion_tokens or 0
        return reply


class AnswerCache(DiskCache):
    """Keep a judge's answers by the hash of what it was asked."""

    def __init__(self, folder: str | Path) -> None:
        table = "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, key TEXT UNIQUE, text TEXT)"
        super().__init__(folder, "verdicts-1.sqlite", table, JudgeError)

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the answers that are there."""
        with self.usable():
            rows = {
                key: self._file.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone() for key in keys
            }
            return {key: str(row[0]) for key, row in rows.items() if row is not None}

    def put(self, key: str, text: str) -> None:
        """Keep an answer."""
        with self.usable(), self._file:
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (NULL, ?, ?)", (key, text))
            self.trim()
