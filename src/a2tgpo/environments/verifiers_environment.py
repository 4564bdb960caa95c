"""Play environments of the `verifiers` library: its multi-turn environments, tool environments among them."""

from __future__ import annotations

import asyncio
import importlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from a2tgpo.environments.environment import DEFAULT_TOOLS, Action, Row, StepResult, Tool
from a2tgpo.errors import ToolError

_BASE = "MultiTurnEnv"
_MODEL = "policy"


class VerifiersEnvironment:
    """Play episodes of a verifiers environment (an `Environment`).

        env = verifiers.load_environment("wordle")
        pool = EnvironmentPool(lambda: VerifiersEnvironment(env, tools=(Tool("guess"),)))
        data = env.get_dataset()                   # its rows have the prompt and whatever the rubric reads

    verifiers runs the rollout and asks a model for each turn; here the model is the policy, whose actions are handed
    over one by one, so that all of verifiers' stop conditions, clean-ups and rubrics hold. One environment serves all
    rollouts: its state is per rollout. The outcome (`get_reward`) is what its rubric gives the whole conversation, the
    closing answer included. An error that verifiers catches is the environment's failure.

    Args:
        env: a `MultiTurnEnv` of verifiers up to 0.3, loaded.
        tools: what the policy can do; None for the tools that a `ToolEnv` has, or one, `act`, whose text is the turn.
        write: makes the message's text of an action that is no call of a tool of `env`; None writes it in the tags of
            its name, as verifiers' XML parser reads it, and that of `act` alone.

    Raises:
        ValueError: `env` is no `MultiTurnEnv`; from verifiers 0.4 on environments drive a model's server themselves.
    """

    def __init__(
        self, env: Any, tools: Sequence[Tool] | None = None, write: Callable[[Action], str] | None = None
    ) -> None:
        package = next(
            (base.__module__.rpartition(".envs.")[0] for base in type(env).__mro__ if base.__name__ == _BASE), None
        )
        if not package:
            raise ValueError(
                f"env is a {type(env).__name__}, no {_BASE} of verifiers; environments of verifiers 0.4 and later run "
                "the model's server themselves, and cannot be played turn by turn: pin verifiers<0.4"
            )
        self.env, self._package, self._write = env, package, write or _in_tags
        own = [_tool(definition) for definition in getattr(env, "tool_defs", None) or ()]
        self._called = {tool.name for tool in own}
        self.tools = tuple(tools if tools is not None else own or DEFAULT_TOOLS)
        self._turns: _Turns | None = None

    async def reset(self, row: Row) -> None:
        """Begin the rollout of a row of the environment's data set."""
        await self.close()
        self._turns = _Turns.begin(self.env, self._package, row)
        await self._turns.next()

    async def step(self, action: Action) -> StepResult:
        """Hand over one turn, and return what the environment says to it.

        Raises:
            ToolError: verifiers caught an error in the environment.
        """
        turns = self._begun
        if action.tool in self._called:
            arguments = action.text if action.arguments is None else json.dumps(dict(action.arguments))
            call = {"id": f"call{uuid.uuid4().hex[:5]}", "name": action.tool, "arguments": arguments}
            said = await turns.say(None, [call])
        else:
            said = await turns.say(self._write(action))
        return StepResult(said, done=turns.over)

    async def finish(self, text: str) -> None:
        """Hand over the closing turn, which the rubric reads with the rest."""
        if not self._begun.over:
            await self._begun.say(text)

    async def get_reward(self) -> float:
        """Return what the rubric gives the conversation.

        Raises:
            ToolError: verifiers caught an error in the environment.
        """
        state = await self._begun.end()
        await self.env.rubric.score_rollout(state)
        return float(state["reward"])

    @property
    def answer(self) -> Any:
        """Return the gold answer of the row, where the data set has one."""
        state = self._turns.state if self._turns is not None else None
        return None if state is None else state.get("answer") or None

    async def close(self) -> None:
        """End the rollout, so that verifiers cleans up."""
        if self._turns is not None:
            await self._turns.abandon()
            self._turns = None

    @property
    def _begun(self) -> _Turns:
        assert self._turns is not None, "an episode begins with reset"
        return self._turns


@dataclass(eq=False)
class _Turns:
    """Stand where verifiers expects a model: its requests come in, the policy's turns go out."""

    package: str
    requests: asyncio.Queue[Any]
    replies: asyncio.Queue[Any]
    rollout: asyncio.Task[Any]
    n_read: int = 0
    over: bool = False
    state: Any = None

    @classmethod
    def begin(cls, env: Any, package: str, row: Row) -> _Turns:
        requests: asyncio.Queue[Any] = asyncio.Queue()
        replies: asyncio.Queue[Any] = asyncio.Queue()

        async def get_response(_: Any, prompt: Any, *arguments: Any, state: Any = None, **options: Any) -> Any:
            requests.put_nowait((prompt, state))
            reply = await replies.get()
            if isinstance(reply, Exception):
                raise reply
            return reply

        base = importlib.import_module(f"{package}.clients.client").Client
        unused = {name: None for name in base.__abstractmethods__}
        client = type("PolicyClient", (base,), unused | {"get_response": get_response})(object())
        rollout = asyncio.ensure_future(env.rollout({"example_id": 0, **row}, client, _MODEL, {}))
        return cls(package, requests, replies, rollout)

    async def say(self, text: str | None, calls: Sequence[dict[str, Any]] = ()) -> str:
        """Reply with a turn, and return what the environment says next."""
        types = importlib.import_module(f"{self.package}.types")
        message = types.ResponseMessage(
            content=text,
            tool_calls=[types.ToolCall(**call) for call in calls] or None,
            finish_reason="tool_calls" if calls else "stop",
            is_truncated=False,
        )
        self.replies.put_nowait(types.Response(id=uuid.uuid4().hex, created=0, model=_MODEL, message=message))
        return await self.next(1)

    async def next(self, n_own: int = 0) -> str:
        """Wait for the next request, or the end, and return the words that are new, after `n_own` of the policy's."""
        request = asyncio.ensure_future(self.requests.get())
        await asyncio.wait([request, self.rollout], return_when=asyncio.FIRST_COMPLETED)
        if request.done():
            prompt, self.state = request.result()
            new = prompt[self.n_read + n_own :] if self.n_read else []
            self.n_read = len(prompt)
            return _text(new)
        request.cancel()
        self.over, self.state = True, self.rollout.result()
        self._check()
        last = self.state.get("final_env_response")
        return last if isinstance(last, str) else _text(last or [])

    async def end(self) -> Any:
        """Return the state of the rollout; one that asks for another turn is told that there is no room for it."""
        if not self.over:
            self.replies.put_nowait(importlib.import_module(f"{self.package}.errors").OverlongPromptError())
            self.state, self.over = await self.rollout, True
            self._check()
        return self.state

    async def abandon(self) -> None:
        """Cancel the rollout, which cleans up after itself."""
        self.rollout.cancel()
        await asyncio.wait([self.rollout])

    def _check(self) -> None:
        error = self.state.get("error")
        if error is not None:
            raise ToolError(f"{type(error).__name__}: {error.__cause__ or error}")


def _in_tags(action: Action) -> str:
    return action.text if action.tool == DEFAULT_TOOLS[0].name else f"<{action.tool}>{action.text}</{action.tool}>"


def _tool(definition: Any) -> Tool:
    held = definition if isinstance(definition, dict) else definition.model_dump()
    held = held.get("function", held)
    return Tool(held["name"], str(held.get("description") or ""), held.get("parameters") or {})


def _text(messages: Sequence[Any]) -> str:
    contents = [m.get("content") if isinstance(m, dict) else getattr(m, "content", None) for m in messages]
    parts = [content if isinstance(content, list) else [content] for content in contents if content]
    texts = [_part(part) for several in parts for part in several]
    return "\n".join(text for text in texts if text)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    return str(part.get("text") or "") if isinstance(part, dict) else str(getattr(part, "text", None) or "")
