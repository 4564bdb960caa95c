"""Score turns by a judge: any model behind an OpenAI-compatible server, told by a rubric what a good turn is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from a2tgpo.chat_client import ChatClient
from a2tgpo.errors import JudgeError
from a2tgpo.redact import remember_secrets
from a2tgpo.signals.judge_requests import AnswerCache, Hearing, Question
from a2tgpo.signals.process_signal import Scored, TurnScores, Unscored
from a2tgpo.signals.transcript import Transcript, Turn
from a2tgpo.signals.verdict import RUBRIC, BadVerdict, JudgeFailure, judge_messages, read_verdict

OPTIONS: Mapping[str, Any] = MappingProxyType({"temperature": 0.0, "max_tokens": 2048})
"""Of each request, unless others are given."""

_COUNTED = ("rollouts", "calls", "asked_again", "tokens_in", "tokens_out", "seconds", "cached_share", "unscored_share")


class Judge:
    """Ask a model for a score of each process turn (a `ProcessSignal`).

        judge = Judge("http://127.0.0.1:8000/v1", "Qwen/Qwen3-32B", rubric="A good turn narrows the search.")
        A2TGPOTrainer(..., turn_signal=judge)

    A rollout is one request, whatever its number of turns; equal ones are asked for once, and those in the cache not at
    all. An answer that is not one score in range for each turn goes back to the model once, with what is wrong. A
    rollout that stays without scores is `Unscored`: excluded from the loss, its reason in the rollout log, counted by
    kind (`JudgeFailure`); its neighbours go on.

    Args:
        url: of the server, such as `http://127.0.0.1:8000/v1`.
        model: the server's name of the model.
        rubric: says what makes a turn good, in plain words.
        low, high: the range of the scores.
        api_key_env: environment variable that holds the server's key; None where it asks for none.
        cache_dir: folder that keeps answers over runs, by model, request and options; None keeps none.
        concurrency: requests at a time.
        timeout_s: seconds a request may take before it is tried again, twice.
        options: of each request, in place of `OPTIONS`.

    Raises:
        ValueError: an argument outside its range, or an environment variable that is not set.
        JudgeError: the cache cannot be used; when asked also: the server refuses the key, the path or the model.
        MissingExtra: when asked, the openai package is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        rubric: str = RUBRIC,
        *,
        low: float = 0.0,
        high: float = 1.0,
        api_key_env: str | None = None,
        cache_dir: str | Path | None = None,
        concurrency: int = 16,
        timeout_s: float = 60.0,
        options: Mapping[str, Any] = OPTIONS,
    ) -> None:
        if not str(url).startswith(("http://", "https://")):
            raise ValueError(f"url={url!r}: must be like http://127.0.0.1:8000/v1")
        for name, text in (("model", model), ("rubric", rubric)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{name}={text!r}: give a text")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"low={low}, high={high}: give finite numbers, low below high")
        if concurrency < 1:
            raise ValueError(f"concurrency={concurrency}: must be at least 1")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s}: must be above 0 seconds")
        key = None if api_key_env is None else os.environ.get(api_key_env)
        if api_key_env is not None and not key:
            raise ValueError(f"api_key_env={api_key_env!r}: no such environment variable, or an empty one")
        remember_secrets([key] if key else [])
        self.url, self.model, self.rubric, self.low, self.high = url, model, rubric, float(low), float(high)
        self.concurrency, self.timeout_s, self.options = concurrency, timeout_s, dict(options)
        self._key = key
        self._cache = None if cache_dir is None else AnswerCache(cache_dir)
        self._counts: dict[str, float] = defaultdict(float)

    def __call__(self, rollouts: Sequence[Transcript]) -> list[TurnScores]:
        """Score the process turns of `rollouts`.

        Raises:
            JudgeError: the server refuses the key, the path or the model; or the cache cannot be used.
        """
        started = time.monotonic()
        asked = {i: self._question(rollout) for i, rollout in enumerate(rollouts) if rollout.steps}
        questions = {question.key: question for question in asked.values()}
        found = self._answered_before(questions)
        missing = [question for key, question in questions.items() if key not in found]
        if missing:
            # A thread of its own: a notebook's has an event loop already.
            with ThreadPoolExecutor(1, "a2tgpo-judge") as thread:
                found |= thread.submit(asyncio.run, self._hearing().ask_all(missing)).result()
        results = [found[asked[i].key] if i in asked else Scored(()) for i in range(len(rollouts))]
        self._counts["rollouts"] += len(asked)
        self._counts["cached"] += len(asked) - len(missing)
        self._counts["unscored"] += sum(isinstance(result, Unscored) for result in results)
        self._counts["seconds"] += time.monotonic() - started
        return results

    def check(self) -> None:
        """Ask about a made-up rollout, so that a wrong URL, key or model is found before anything is trained.

        Raises:
            JudgeError: the server refuses, or gives no score.
        """
        (result,) = self([Transcript("What is 2 + 2?", ("4",), (Turn("add 2 2", "4"), Turn("It is 4.")))])
        self._counts.clear()
        if isinstance(result, Unscored):
            raise JudgeError(f"judge {self.model!r} gave an example no score: {result.reason}", passing=True)

    def take_counts(self) -> dict[str, float]:
        """Return what was counted since the last call.

        `judge/rollouts` that had a turn to score, `calls` for them and those `asked_again` after an answer that could
        not be read, `tokens_in` and `tokens_out` as the server counts them, `seconds`, the share that needed no call
        (`cached_share`) and that stayed without scores (`unscored_share`), and `failed_KIND` for each `JudgeFailure`.
        """
        counts, n_asked = dict(self._counts), max(self._counts["rollouts"], 1)
        self._counts.clear()
        counts |= {f"{name}_share": counts.get(name, 0) / n_asked for name in ("cached", "unscored")}
        names = [*_COUNTED, *(f"failed_{kind}" for kind in JudgeFailure)]
        return {f"judge/{name}": counts.get(name, 0.0) for name in names}

    def _question(self, rollout: Transcript) -> Question:
        messages = judge_messages(rollout, self.rubric, self.low, self.high)
        text = json.dumps([self.model, messages, self.options], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return Question(key, messages, len(rollout.steps))

    def _answered_before(self, questions: Mapping[str, Question]) -> dict[str, TurnScores]:
        if self._cache is None:
            return {}
        found: dict[str, TurnScores] = {}
        for key, text in self._cache.get(list(questions)).items():
            try:
                found[key] = self._scored(questions[key], text)
            except BadVerdict:
                continue  # written by somebody else
        return found

    def _scored(self, question: Question, text: str) -> Scored:
        verdict = read_verdict(text, question.n_turns, self.low, self.high)
        return Scored(verdict.numbers, verdict.notes)

    def _hearing(self) -> Hearing:
        return Hearing(
            lambda: ChatClient(self.url, self._key, self.model, self.timeout_s),
            self._scored,
            lambda question, text: None if self._cache is None else self._cache.put(question.key, text),
            self.options,
            self.concurrency,
            self._counts,
        )
