"""Whatever an environment, a tool's server or a judge does wrong in a recipe's run is typed, counted, and in no loss.

The policy is the package's player of GuessTheNumber, which writes `<guess> N </guess>`, whatever it reads.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from a2tgpo.cli import main
from a2tgpo.evaluate.outcome import read_outcomes
from a2tgpo.pipeline.rollout_log import RolloutRecord
from a2tgpo.run.directory import RunDirectory
from tests.evaluate.chat_server import ChatServer, Request, Response, Says
from tests.run.faulty_environments import FAILURES, HARMLESS
from tests.run.parts import SMALL
from tests.signals.test_judge import record
from tests.signals.test_verdict import scored

HERE = "tests.run.faulty_environments"
SERVER = Path(__file__).parents[1] / "environments" / "mcp_server.py"


def recipe(folder: Path, **changes: Any) -> Path:
    """An update of GiGPO by `Faulty`, of two rollouts of each of some rows, with `changes`; None takes a key out."""
    keys: dict[str, Any] = SMALL | dict(
        model_name_or_path="a2tgpo:guess-number",
        output_dir=str(folder / "run"),
        environment=f"{HERE}:Faulty",
        method="gigpo",
        call_timeout_s=0.5,
        call_patience_s=0.0,
        n_train_questions=len(FAILURES) + len(HARMLESS),
        n_eval_questions=len(FAILURES) + len(HARMLESS),
        max_prompt_tokens=32,
        max_turn_tokens=12,
        max_completion_length=128,
        observation_tokens=16,
        max_searches=3,
        per_device_train_batch_size=2 * (len(FAILURES) + len(HARMLESS)),
        max_steps=1,
    )
    path = folder / "recipe.yaml"
    kept = {key: value for key, value in (keys | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")
    return path


def kinds(*names: str, **changes: Any) -> dict[str, Any]:
    """Changes for rows of just these faults, four rollouts of two prompts a batch."""
    small = {"n_train_questions": 8, "n_eval_questions": 4, "per_device_train_batch_size": 4}
    return {"environment_args": {"kinds": list(names)}} | small | changes


def records(folder: Path) -> list[RolloutRecord]:
    """Every rollout that was trained on, as the report reads it."""
    files = sorted((folder / "run" / "rollouts").glob("step_*.jsonl"))
    return [RolloutRecord.from_line(line) for file in files for line in file.read_text("utf-8").splitlines()]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of the run's metrics."""
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]


SAYS = {
    "raises": "RuntimeError: boom",
    "exits": "SystemExit: 3",
    "interrupts": "KeyboardInterrupt",
    "hangs": "took longer than timeout_s=0.5 seconds",
    "never_awaited": "took longer than timeout_s=0.5 seconds",
    "bytes": "returned bytes",
    "none": "returned NoneType None; return a StepResult",
    "nan": "the reward float nan",
    "huge_reward": "the reward int 1000",
    "array_reward": "the reward ndarray",
    "strange_error": "StrangeError",
    "no_memory": "MemoryError",
}


def test_every_fault_of_a_step_is_one_rollout(tmp_path: Path) -> None:
    """In one batch each row fails in its own way: those rollouts are excluded from the loss with their reason, all
    others are trained on, and the metrics, the table of the evaluation and its file count them."""
    assert main(["train", str(recipe(tmp_path))]) == 0
    (row,) = metrics(tmp_path)
    n, found = len(FAILURES) + len(HARMLESS), records(tmp_path)
    n_failed = sum(one.termination == "tool_failed" for one in found)
    assert row["rollout/tool_failed"] == pytest.approx(n_failed / len(found)) == row["rollout/invalid"]
    assert len(found) == 2 * n and n_failed >= 2 * len(FAILURES) - 4
    for one in found:
        number = int(str(one.id))
        kind = ([*FAILURES, *HARMLESS])[number % n]
        failed = kind in FAILURES and one.termination != "malformed"  # it called nothing
        assert (one.termination == "tool_failed") == failed == (not one.valid), (kind, one.termination, one.reason)
        assert not failed or (SAYS.get(kind, "") in one.reason and not any(one.advantage)), (kind, one.reason)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))["after, greedy"]
    assert summary["terminations"]["tool_failed"] == len(FAILURES) and "exact_match" not in summary
    assert "failed" in (tmp_path / "run" / "summary.md").read_text("utf-8").splitlines()[0]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("reset:raises", "reset: RuntimeError: boom"),
        ("reset:hangs", "reset: took longer"),
        ("reset:bytes", "reset: Faulty.reset returned bytes"),
        ("reset:nan", "reset: Faulty.reset returned StepResult"),
        ("reward:raises", "after the episode: RuntimeError: boom"),
        ("reward:nan", "get_reward returned float nan"),
        ("reward:text", "get_reward returned str 'text'"),
        ("reward:hangs", "after the episode: took longer"),
        ("answer:bytes", "after the episode: "),
        ("success:words", "Faulty.success is str 'no'"),
    ],
)
def test_faults_at_the_beginning_and_the_end(tmp_path: Path, kind: str, says: str) -> None:
    """Beside a row that is fine."""
    assert main(["train", str(recipe(tmp_path, **kinds("fine", kind)))]) == 0
    for one in records(tmp_path):
        fine = int(str(one.id)) % 2 == 0
        assert one.valid == fine and (fine or says in one.reason), one.reason


def test_an_outage_ends_the_run_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that goes away in mid-run: batches in which all rollouts fail are no update's, the third in a row
    ends the run with one line and what to type, and that command goes on once the environment is back."""
    monkeypatch.setenv("FRAGILE_COUNT", str(tmp_path / "count"))
    changes = kinds("fine", environment=f"{HERE}:Fragile", max_steps=6, n_eval_questions=2)
    path = recipe(tmp_path, **changes | {"environment_args": {"kinds": ["fine"], "calls": 40}})
    assert main(["train", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "the environment failed in all rollouts of 3 batches in a row" in said
    assert "ConnectionError: the game server is gone" in said
    (again,) = [line.partition("continue with: a2tgpo ")[2] for line in said.splitlines() if "continue with" in line]
    (tmp_path / "count").write_text("-1000")
    assert main(shlex.split(again)) == 0
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    failed = [row for row in metrics(tmp_path) if row["rollout/tool_failed"] == 1.0]
    assert all(row["grad_norm"] == 0.0 for row in failed)
    assert len(read_outcomes(RunDirectory(tmp_path / "run").evaluation("after_greedy"))) == 2


def test_a_server_that_dies_in_mid_run(tmp_path: Path) -> None:
    """An MCP server that ends its process now and then: the calls that met its end are failures, the others go on with
    the next process, and the run with both."""
    tools = [
        {
            "mcp": [sys.executable, str(SERVER), "stdio"],
            "only": ["guess"],
            "environment": {"STARTED": str(tmp_path / "pids"), "DIES_AT": "23"},
        }
    ]
    changes = {"environment": None, "tools": tools, "rows": f"{HERE}:answered", "method": "grpo", "max_steps": 3}
    small = {"n_train_questions": 8, "n_eval_questions": 4, "per_device_train_batch_size": 4, "call_timeout_s": 20.0}
    assert main(["train", str(recipe(tmp_path, **changes | small))]) == 0
    assert len((tmp_path / "pids").read_text().split()) > 2
    reasons = [one.reason for one in records(tmp_path) if one.termination == "tool_failed"]
    assert reasons and all("MCP server" in reason for reason in reasons)
    assert any(one.valid and one.calls for one in records(tmp_path))


def fair(request: Request) -> Response:
    """Score the turns of a rollout."""
    return Says(scored(*(turn["turn"] / 10 for turn in record(request)["turns"])))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("Well, well.", "prose"), ("", "empty"), (scored("NaN"), "not_a_number"), (scored(7), "out_of_range")],
)
def test_a_judge_that_gives_no_scores(tmp_path: Path, answer: str, kind: str) -> None:
    """Of every other rollout: those are in no loss, counted by kind, and the rest is trained on."""
    asked: list[str] = []

    def respond(request: Request) -> Response:
        text = json.dumps(request["messages"])
        if "2 + 2" in text:
            return fair(request)  # the example before the run
        asked.append(text)
        return Says(answer) if "Play 1." in text else fair(request)

    with ChatServer(respond) as server:
        judge = {"url": server.url, "model": "judge-1"}
        changes = kinds("fine", method="a2tgpo", turn_signal="judge", judge=judge, rows=f"{HERE}:numbered")
        assert main(["train", str(recipe(tmp_path, **changes))]) == 0
    assert asked
    for one in records(tmp_path):
        bad = one.prompt == "Play 1."
        assert one.valid != bad and (not bad or str(one.unscored).startswith(kind)), (one.prompt, one.unscored)
    (row,) = metrics(tmp_path)
    assert row[f"judge/failed_{kind}"] > 0 and row["judge/unscored_share"] == 0.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"environment": f"{HERE}:NoReset", "environment_args": None},
            "NoReset has no method reset; an environment needs reset(row) and step",
        ),
        (
            {"environment": f"{HERE}:ResetTakesNothing", "environment_args": None, "rows": f"{HERE}:answered"},
            "cannot begin the first row",
        ),
        ({"environment": f"{HERE}:MakesNothing", "environment_args": None}, "OSError from MakesNothing(): no licence"),
        ({"environment": f"{HERE}:Fauly"}, "has no Fauly; it has"),
        ({"environment": HERE}, "names no object; write it as package.module:Name"),
        ({"environment": "tests/run/faulty_environments.py:Faulty"}, "write tests.run.faulty_environments"),
        ({"environment": "no_such_module_q:Faulty"}, "no module no_such_module_q; looked in "),
        ({"environment": f"{HERE}.deeper:Faulty"}, "no module tests.run.faulty_environments.deeper"),
        ({"environment": "tests.run.broken_module:Faulty"}, "importing tests.run.broken_module failed with ZeroDivis"),
        ({"environment": "tests.run.needy_module:Faulty"}, "needs a module that is missing: no_such_module_z"),
        ({"tools": [f"{HERE}:_array"]}, "tool _array has no schema"),
        ({"tools": [{"mcp": [sys.executable, "-c", "print('hello')"]}]}, "MCP server"),
        ({"tools": [{"mcp": "a", "environment": ["NO_SUCH_VARIABLE_Q"]}]}, "NO_SUCH_VARIABLE_Q not set; export it"),
        ({"demonstrations": f"{HERE}:plays", "warm_start_steps": 2, "warm_start_batch_size": 4}, "is NoneType None"),
        ({"environment_args": {"kinds": ["reset:raises"]}}, "RuntimeError: boom"),
        ({"rows": f"{HERE}:no_rows"}, "made None; return a list of rows"),
        ({"environment": f"{HERE}:Twins", "environment_args": None}, "has the names ['guess', 'guess', 'my guess']"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps"}, "best_checkpoint: true evaluates those"),
    ],
)
def test_what_cannot_begin_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    """It names what was looked for and where, and no run has begun."""
    assert main(["train", str(recipe(tmp_path, **kinds("fine") | changes))]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("error: ") == 1, said
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_tokenizer_that_cannot_write_the_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told which tag, what becomes of it, and what to do."""
    server = {"mcp": [sys.executable, str(SERVER), "stdio"], "only": ["double"]}
    changes = {"environment": None, "tools": [server], "rows": f"{HERE}:answered", "method": "grpo"}
    assert main(["train", str(recipe(tmp_path, **kinds() | {"environment_args": None} | changes))]) == 2
    said = capsys.readouterr().err
    assert "the tokenizer cannot write <double>, </double>" in said and "Rename a tool" in said
