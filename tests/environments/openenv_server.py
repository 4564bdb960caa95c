"""A small OpenEnv server in this process: a corridor to walk, behind OpenEnv's own application."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Walk(Action):
    """Walk so many steps."""

    steps: int


class Seen(Observation):
    text: str = ""


class Corridor(Environment[Walk, Seen, State]):
    """Begin at the seed; each step earns a tenth, place 9 ends the episode, and beyond it there is nothing."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Seen:
        self.place = seed or 0
        return Seen(text=f"You stand at {self.place}.")

    def step(self, action: Walk, timeout_s: float | None = None, **_: Any) -> Seen:
        if self.place + action.steps > 9:
            raise IndexError("you fell off")
        self.place += action.steps
        return Seen(text=f"You stand at {self.place}.", reward=action.steps / 10, done=self.place == 9)

    @property
    def state(self) -> State:
        return State()


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server, while it runs."""
    app = create_app(Corridor, Walk, Seen, max_concurrent_envs=16)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
