"""Secrets of an evaluation: neither the key nor a login in a URL is written, shown, or kept with an answer."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="pip install 'a2tgpo[eval]'")

from a2tgpo.cli import main
from tests.evaluate.chat_server import ChatServer, Refuses, Request, Response, Says
from tests.evaluate.world import WorldFiles

KEY, PASSWORD = "verysecretkey123", "hunter2hunter2"


@pytest.mark.parametrize("login", ["", f"user:{PASSWORD}@"])
@pytest.mark.parametrize("status", [200, 400, 401])
def test_nothing_of_an_evaluation_has_a_secret(
    status: int, login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the server answers, refuses a question and repeats the key, or refuses the key: every file of the folder
    and all that was printed is free of it, and so is the login in `base_url`."""
    monkeypatch.setenv("MY_KEY", KEY)
    world = WorldFiles.write(tmp_path / "world", 2)

    def respond(request: Request) -> Response:
        assert request["key"] == (f"Bearer {KEY}" if not login else f"Basic {b64encode(login[:-1].encode()).decode()}")
        answer = Says("<think> a </think> <answer> \\boxed{Bora} ")
        return answer if status == 200 else Refuses(status, f"Incorrect API key provided: {KEY}")

    with ChatServer(respond) as server:
        flags = dict(
            model="m",
            base_url=server.url.replace("://", f"://{login}"),
            api_key_env="MY_KEY",
            benchmarks=f"hops={world.questions}",
            retriever=world.index,
            output_dir=tmp_path / "run",
        )
        main(["eval", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))])
    shown = capsys.readouterr()
    texts = [shown.out, shown.err]
    texts += [path.read_text(encoding="utf-8") for path in (tmp_path / "run").glob("*.json*")]
    assert len(texts) > 2
    for text in texts:
        assert KEY not in text and PASSWORD not in text
