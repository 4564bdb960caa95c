"""The recipes of environments that the package ships with run end to end on a CPU, in a small size."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.cli import main
from a2tgpo.environments import table_questions
from a2tgpo.environments.environment import Action
from a2tgpo.pipeline.rollout_log import RolloutRecord
from a2tgpo.pretrained import open_model, open_tokenizer
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.environment_task import EnvironmentTask
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.untrained import UNTRAINED

pytest.importorskip("mcp.client.stdio", reason="pip install 'a2tgpo[mcp]'")  # keeps the standard error of its import

SMALL = {
    "n_train_questions": 8,
    "n_eval_questions": 4,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 1,
    "max_steps": 1,
    "save_steps": 1,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The untrained policy is made in a folder of the test's."""
    monkeypatch.setattr("a2tgpo.untrained.HF_HOME", str(tmp_path / "cache"))


def flags(**keys: Any) -> list[str]:
    """Recipe keys as flags."""
    return [part for key, value in keys.items() for part in (f"--{key}", str(value))]


def test_frozen_lake(tmp_path: Path) -> None:
    """Warm start, an update by GiGPO, tables of success and reward; a turn that moves is a call with its seconds."""
    pytest.importorskip("gymnasium", reason="pip install 'a2tgpo[games]'")
    small = SMALL | {"warm_start_steps": 2, "warm_start_batch_size": 4, "output_dir": tmp_path / "run"}
    assert main(["train", "frozen_lake", *flags(**small)]) == 0
    directory = RunDirectory(tmp_path / "run")
    summary = json.loads(directory.summary.read_text(encoding="utf-8"))
    assert summary["after, greedy"]["success"]["total"] == 4
    assert "exact_match" not in summary["after, greedy"]


def test_frozen_lake_s_demonstrations_reach_the_goal(tmp_path: Path) -> None:
    """A player that goes astray now and then reaches G on most maps, in ten moves; maps are drawn by seeds, and those
    held out are others."""
    pytest.importorskip("gymnasium", reason="pip install 'a2tgpo[games]'")
    from a2tgpo.environments.gymnasium_text import FrozenLake

    lake, won = FrozenLake(size=3, frozen=0.7), 0
    rows = FrozenLake.rows(60, 0)
    begun = [lake.reset(row) for row in rows]
    assert begun == [lake.reset(row) for row in rows] and len(set(begun)) > 10
    for row in rows:
        said = [lake.reset(row).strip()]
        for _ in range(10):
            move = FrozenLake.demonstrate(row, said).split()[1]
            result = lake.step(Action("move", move))
            said.append(str(result.observation))
            if result.done:
                break
        won += lake.success
    assert 30 <= won < 60


def test_table_questions(tmp_path: Path) -> None:
    """A real server in a process of its own answers the demonstrations, and the run tells exact match."""
    small = SMALL | {"warm_start_steps": 1, "warm_start_batch_size": 4, "output_dir": tmp_path / "run"}
    # A token a byte: the system prompt and the queries take more of them.
    small |= {
        "model_name_or_path": UNTRAINED,
        "max_prompt_tokens": 512,
        "max_turn_tokens": 128,
        "max_completion_length": 600,
    }
    assert main(["train", "table_questions", *flags(**small)]) == 0
    directory = RunDirectory(tmp_path / "run")
    assert json.loads(directory.summary.read_text(encoding="utf-8"))["after, greedy"]["exact_match"]["total"] == 4


def test_the_server_answers_as_the_rows_do(tmp_path: Path) -> None:
    """Every demonstration, played against the server, ends in the row's answer; what it refuses is read."""
    path = str(Path(__file__).parents[2] / "recipes" / "table_questions.yaml")
    config = load_recipe(path, flags(n_train_questions=12, n_eval_questions=4, output_dir=tmp_path / "run"))
    with EnvironmentTask(config) as task:
        episodes = task.environment.open(branching=False)
        asked = random.Random(1).sample(task.train_rows, 6)
        episodes.reset(dict(enumerate(asked)))
        for number, row in enumerate(asked):
            sql = table_questions.demonstrate(row, [""]).partition("<query>")[2].partition("</query>")[0]
            episodes.submit(number, [Action("query", sql)])
        for number, (answer,) in _collected(episodes, len(asked)).items():
            assert [answer.observation] == asked[number]["answer"]
        for sql, said in (("DROP TABLE stock", "readonly"), ("SELECT x", "no such column")):
            episodes.submit(0, [Action("query", sql)])
            (answer,) = _collected(episodes, 1)[0]
            assert answer.info["refused"] and said in answer.observation


def _collected(episodes: Any, n: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    while len(found) < n:
        found |= episodes.collect(idle=True)
    return found


def test_the_untrained_policy_is_always_the_same() -> None:
    """It reads any text byte by byte and back, and its weights are those of the last time; making it draws no number
    that somebody else would have drawn."""
    import shutil

    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = open_model(UNTRAINED).state_dict()
    assert torch.equal(torch.rand(2), expected)
    tokenizer = open_tokenizer(UNTRAINED)
    text = "<think> né 你 </think> <move> up </move>\n<result>\n[S]F\n</result>\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    from a2tgpo.untrained import untrained_policy

    shutil.rmtree(untrained_policy())
    again = open_model(UNTRAINED).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        *(("guess_the_number", method) for method in ("a2tgpo", "tree-grpo", "aepo", "dapo")),
        ("mastermind", "a2tgpo"),
    ],
)
def test_guessing_games(tmp_path: Path, recipe: str, method: str) -> None:
    """The shipped policies really guess: gains are read of the secret that the game reveals, trees and entropy branches
    go on from copies of the game, groups of equal rewards are replaced; the log names the tool and its seconds."""
    pytest.importorskip("textarena", reason="pip install 'a2tgpo[games]'")
    small = SMALL | {"num_generations": 8, "per_device_train_batch_size": 8, "method": method}
    assert main(["train", recipe, *flags(**small, output_dir=tmp_path / "run")]) == 0
    directory = RunDirectory(tmp_path / "run")
    summary = json.loads(directory.summary.read_text(encoding="utf-8"))
    assert summary["after, greedy"]["success"]["total"] == 4 and summary["after, greedy"]["searches"] > 1
    lines = (directory.rollouts / "step_000000.jsonl").read_text(encoding="utf-8").splitlines()
    records = [RolloutRecord.from_line(line) for line in lines]
    assert all(record.answer and record.success is not None for record in records)
    calls = [call for record in records for call in record.calls]
    assert {call.tool for call in calls} == {"guess"} and all((call.seconds or 0) >= 0 for call in calls)
    if method == "a2tgpo":
        assert any(gain for record in records for gain in record.gain or [])
    if method in ("tree-grpo", "aepo"):
        assert any(not all(record.owned or [True]) for record in records) or len({len(r.calls) for r in records}) > 1
