"""`a2tgpo eval` on benchmarks, as a user meets it: real processes, a real socket, killed and resumed."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="pip install 'a2tgpo[eval]'")

from a2tgpo.cli import main
from a2tgpo.errors import RetrieverError
from a2tgpo.evaluate.answers_file import read_answers
from a2tgpo.evaluate.benchmark_run import OUTAGE
from a2tgpo.evaluate.outcome import read_outcomes
from tests.evaluate.chat_server import ChatServer, Refuses, Request, Response, Says, question_of, turn_of
from tests.evaluate.world import WorldFiles
from tests.run.parts import Command

N = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    """`N` questions."""
    return WorldFiles.write(tmp_path_factory.mktemp("world"), N)


def model(world: WorldFiles) -> Any:
    """Searches for the whole question, then answers the first three questions rightly and the others wrongly."""
    answers = {row["question"]: row["answer"][0] if i < 3 else "nobody" for i, row in enumerate(world.rows)}

    def respond(request: Request) -> Response:
        question = question_of(request)
        if turn_of(request) == 0:
            return Says(f"<think> a </think> <search> {question} ")
        return Says(f"<think> a </think> <answer> \\boxed{{{answers[question]}}} ")

    return respond


def command(world: WorldFiles, server: ChatServer, output: Path, **flags: Any) -> list[str]:
    """The arguments of an evaluation, one question at a time."""
    values: dict[str, Any] = dict(
        model="m",
        base_url=server.url,
        benchmarks=f"hops={world.questions}",
        retriever=world.index,
        output_dir=output,
        concurrency=1,
    )
    return ["eval", *(part for name, value in (values | flags).items() for part in (f"--{name}", str(value)))]


# --- a run and what it leaves ----------------------------------------------------------------------------------------


def test_a_run_and_what_it_leaves(world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, a table, progress; in the folder every answer with its rollout and scores, the settings, and the table as
    Markdown and JSON. The same command again asks nothing and shows the same table."""
    with ChatServer(model(world)) as server:
        arguments = command(world, server, tmp_path / "run")
        assert main(arguments) == 0
        shown = capsys.readouterr()
        assert main(arguments) == 0
        again = capsys.readouterr()
    assert "exact match, %" in " ".join(shown.out.split()) and "37.5" in shown.out
    assert f"questions: 100%|██████████| {N}/{N}" in shown.err
    assert len(server.requests) == 2 * N
    table = shown.out[: shown.out.index("everything is in")]
    assert again.out.startswith(f"{N} of {N} answers are here already") and table in again.out
    outcomes = read_outcomes(tmp_path / "run" / "answers.jsonl")
    assert [outcome.question for outcome in outcomes] == [row["question"] for row in world.rows]
    assert [outcome.correct for outcome in outcomes] == [True] * 3 + [False] * (N - 3)
    assert all("<result>\n[1]" in outcome.text and outcome.searches == 1 for outcome in outcomes)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    assert settings["model"] == "m" and settings["temperature"] == 0 and len(settings["questions of hops"]) == 64
    assert "37.5" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert list(summary["policies"]) == ["m"]


def test_other_settings_need_another_folder(
    world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What answers depend on is refused by name, other questions included, and no question is asked; speed and patience
    may change."""
    with ChatServer(model(world)) as server:
        assert main(command(world, server, tmp_path / "run")) == 0
        n_requests = len(server.requests)
        for changes in ({"max_searches": 3}, {"n_questions": 4}, {"seed": 1}, {"model": "other"}):
            assert main(command(world, server, tmp_path / "run", **changes)) == 2
            (name,) = changes
            assert f"{name} was" in capsys.readouterr().err
        assert main(command(world, server, tmp_path / "run", concurrency=4, timeout_s=9)) == 0
    assert len(server.requests) == n_requests


def test_two_runs_are_compared(world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """First minus second, question by question."""
    with ChatServer(model(world)) as server:
        assert main(command(world, server, tmp_path / "first")) == 0
        server.respond = lambda request: Says("<think> a </think> <answer> \\boxed{nobody} ")
        assert main(command(world, server, tmp_path / "second")) == 0
    capsys.readouterr()
    pair = ["eval", "--compare", str(tmp_path / "first"), str(tmp_path / "second")]
    assert main([*pair, "--output_dir", str(tmp_path / "difference")]) == 0
    written = json.loads((tmp_path / "difference" / "comparison.json").read_text(encoding="utf-8"))
    assert written["first"]["name"] == str(tmp_path / "first") and written["first_minus_second"]
    assert str(tmp_path / "second") in (tmp_path / "difference" / "comparison.md").read_text(encoding="utf-8")
    assert "+37.5" in capsys.readouterr().out
    assert main(["eval", "--compare", str(tmp_path / "first"), str(tmp_path)]) == 2
    assert "no answers of `a2tgpo eval`" in capsys.readouterr().err


def test_samples_give_pass_at_k(world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A question that one of two samples answers is half right, and right once in two."""
    asked = 0

    def respond(request: Request) -> Response:
        nonlocal asked
        asked += 1
        return Says(f"<think> a </think> <answer> \\boxed{{{world.rows[0]['answer'][0] if asked % 2 else 'nobody'}}} ")

    with ChatServer(respond) as server:
        flags = dict(samples=2, temperature=0.5, n_questions=N, benchmarks=f"hops={world.questions}")
        assert main(command(world, server, tmp_path / "run", **flags)) == 0
    outcomes = read_answers(tmp_path / "run")
    assert [outcome.sample for outcome in outcomes] == [0, 1] * N
    assert [outcome.correct for outcome in outcomes[:2]] == [True, False]
    assert "pass@2" in capsys.readouterr().out


# --- interrupted -----------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_was(world: WorldFiles, tmp_path: Path) -> None:
    """kill -9 of the process in its fifth question, its last line torn as by a crash of the machine: the resumed run
    says what it dropped, asks no question again whose answer it has, and ends with the table of a run that was never
    killed."""
    hold, reached = threading.Event(), threading.Event()
    respond = model(world)

    def holding(request: Request) -> Response:
        if question_of(request) == world.rows[4]["question"] and not hold.is_set():
            reached.set()
            hold.wait(60)
        return respond(request)

    run = tmp_path / "run"
    with ChatServer(holding) as server:
        killed = Command.start(tmp_path / "1", *command(world, server, run))
        assert reached.wait(120), killed.errors
        killed.process.kill()
        assert killed.wait() == -9
        hold.set()
        kept = (run / "answers.jsonl").read_text(encoding="utf-8")
        assert kept.count("\n") == 4
        (run / "answers.jsonl").write_text(kept[:-40], encoding="utf-8")
        server.requests.clear()
        resumed = Command.start(tmp_path / "2", *command(world, server, run))
        assert resumed.wait() == 0, resumed.errors
        assert server.questions() == [row["question"] for row in world.rows[3:]]
        whole = Command.start(tmp_path / "3", *command(world, server, tmp_path / "whole"))
        assert whole.wait() == 0, whole.errors
    assert "dropped a last line of" in resumed.output and f"3 of {N} answers are here already" in resumed.output
    for name in ("answers.jsonl", "table.md", "summary.json"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not re.search("warning|traceback", resumed.errors + whole.errors, re.IGNORECASE)


def test_ctrl_c_keeps_what_was_answered(world: WorldFiles, tmp_path: Path) -> None:
    """Exit 130 at once, though a request hangs, with the way on and without a traceback."""
    hold = threading.Event()
    respond = model(world)

    def holding(request: Request) -> Response:
        if question_of(request) == world.rows[2]["question"]:
            hold.wait(60)
        return respond(request)

    with ChatServer(holding) as server:
        stopped = Command.start(tmp_path / "1", *command(world, server, tmp_path / "run"))
        assert stopped.interrupt_when(lambda: len(server.questions()) == 3) == 130
        hold.set()
    assert "the same command goes on" in stopped.errors and "Traceback" not in stopped.errors
    assert len(read_answers(tmp_path / "run")) == 2


def test_a_server_that_dies_and_comes_back(
    world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run stops with exit 2, the server's address and the way on; with the server back, the same command asks what
    is open, the failed question among it, and nothing else."""
    respond = model(world)

    def dying(request: Request) -> Response:
        if question_of(request) == world.rows[2]["question"]:
            threading.Thread(target=server.die).start()
        return respond(request)

    server, flags = ChatServer(dying), dict(samples=3, temperature=1.0, concurrency=2)
    with server:
        assert main(command(world, server, tmp_path / "run", **flags)) == 2
    error = capsys.readouterr().err
    assert server.url in error and "the same command goes on" in error
    done = [o.question for o in read_answers(tmp_path / "run") if o.termination == "answered"]
    assert 3 <= len(done) <= 9
    server.respond = respond
    server.requests.clear()
    with server:
        assert main(command(world, server, tmp_path / "run", **flags)) == 0
    assert sorted(server.questions() + done) == sorted(row["question"] for row in world.rows * 3)
    assert sum(outcome.correct for outcome in read_answers(tmp_path / "run")) == 9


def test_one_refused_question_is_counted_and_tried_again(
    world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands in the table as model_failed; the same command asks that one again, and only that one."""
    respond, refused = model(world), world.rows[1]["question"]
    with ChatServer(lambda r: Refuses(400, "too long") if question_of(r) == refused else respond(r)) as server:
        assert main(command(world, server, tmp_path / "run")) == 0
        assert "model failed" in " ".join(capsys.readouterr().out.split())
        (failed,) = [o for o in read_answers(tmp_path / "run") if o.termination == "model_failed"]
        assert failed.question == refused and "too long" in failed.reason and not failed.correct
        server.respond = respond
        server.requests.clear()
        assert main(command(world, server, tmp_path / "run")) == 0
    assert server.questions() == [refused]
    assert sum(outcome.correct for outcome in read_answers(tmp_path / "run")) == 3


@pytest.mark.parametrize(("samples", "said"), [(4, f"failed {OUTAGE} answers in a row"), (1, "failed every answer")])
def test_a_search_tool_that_is_gone_stops_the_run(
    world: WorldFiles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    samples: int,
    said: str,
) -> None:
    """Failures in a row end the run with exit 2 instead of failing every question, and so does a run too short for so
    many; all of them are asked again once the tool is back."""

    class Gone:
        def search(self, queries: list[str], k: int) -> Any:
            raise RetrieverError("no route to host")

    with ChatServer(model(world)) as server:
        arguments = command(world, server, tmp_path / "run", samples=samples, temperature=1.0)
        with monkeypatch.context() as patch:
            patch.setattr("a2tgpo.retrieval.source.open_retriever", lambda *_, **__: Gone())
            assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error and "no route to host" in error
        assert "the same command goes on" in error
        server.requests.clear()
        assert main(arguments) == 0
    assert len(server.questions()) == samples * N


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"samples": "2"}, "samples=2: greedy answers are all the same"),
        ({"samples": "0"}, "samples=0: must be at least 1"),
        ({"temperature": "nan"}, "temperature=nan: must be at least 0"),
        ({"timeout_s": "0"}, "timeout_s=0.0: must be above 0"),
        ({"benchmarks": "squad"}, "benchmark 'squad': not one of"),
        ({"benchmarks": "nq=missing.jsonl"}, "missing.jsonl: no such file"),
        ({"retriever": "missing"}, "missing is no index"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "no such environment variable"),
        ({"engine": "vllm"}, "with base_url the server generates"),
        ({"max_serches": "3"}, "does not know '--max_serches 3'"),
        ({"compare": "a b"}, "--compare takes two evaluations, and of the other flags --output_dir alone"),
    ],
)
def test_bad_input_is_one_line(
    world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict[str, str], message: str
) -> None:
    """A mistake of the user's exits 2 with one sentence that names it."""
    arguments = command(world, ChatServer(model(world)), tmp_path / "run", **flags)
    assert main([part for word in arguments for part in (word.split() if word == "a b" else [word])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval"], "--model --benchmarks --retriever --output_dir missing"),
        (
            [
                "eval",
                "--protocol",
                "tools",
                "--model",
                "m",
                "--benchmarks",
                "nq",
                "--retriever",
                "i",
                "--output_dir",
                "o",
            ],
            "native tool calls need a server",
        ),
        (
            ["eval", "recipes/hops_cpu.yaml", "--benchmarks", "nq"],
            "`a2tgpo eval --benchmarks` does not know 'recipes/hops_cpu.yaml'",
        ),
        (["eval", "recipes/hops_cpu.yaml", "--engine", "vllm"], "unknown recipe key 'engine'"),
        (["eval", "recipes/hops_cpu.yaml", "--protocol", "tools"], "protocol: of an environment"),
    ],
)
def test_flags_that_do_not_go_together(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """What is missing or belongs to the other form is named."""
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_key_is_read_from_the_environment(world: WorldFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the server and no file."""
    monkeypatch.setenv("MY_KEY", "sesame-7")
    with ChatServer(model(world)) as server:
        assert main(command(world, server, tmp_path / "run", api_key_env="MY_KEY", n_questions=1)) == 0
    assert {request["key"] for request in server.requests} == {"Bearer sesame-7"}
    assert not any("sesame-7" in path.read_text(encoding="utf-8") for path in (tmp_path / "run").iterdir())
