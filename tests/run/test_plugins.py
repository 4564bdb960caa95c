"""A user's own method, rewards and turn signal work from a recipe and from flags, in every command, without editing the
package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from a2tgpo.cli import main
from a2tgpo.errors import RecipeError
from a2tgpo.pipeline.plugins import load_rewards, load_turn_signal
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import import_plugins, load_recipe
from a2tgpo.signals import TurnFunction
from tests.evaluate.chat_server import ChatServer
from tests.run.parts import save_policy, write_recipe
from tests.signals.test_judge import fair, record

MODULE = """
from a2tgpo.core import TurnGroupCredit
from a2tgpo.methods import Method, register

register(Method("{name}", TurnGroupCredit(std_floor=0.1), "mine", ratio="turn", eps_low=3e-3, eps_high=4e-3))


def length(completions, **columns):
    return [float(len(completion)) for completion in completions]


def half(completions, **columns):
    return [0.5] * len(completions)


def judge(transcript):
    return [1.0 for _ in transcript.steps]


class Judge:
    def __call__(self, rollouts):
        return [[0.0 for _ in rollout.steps] for rollout in rollouts]


made = Judge()
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of a user's, beside the working directory."""
    name = f"mine_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_every_way_to_name_a_plugin(module: str) -> None:
    """In the file, by --plugins and by --import, in either spelling, each module is imported once and they are one list
    of the recipe; other flags stay as they are."""
    flags = ["--seed", "3", "--import", module, "--plugins", "json", "csv", "--import=json", "--max_steps=2"]
    made = import_plugins({"plugins": "math"}, flags)
    assert made == ["--seed", "3", "--max_steps=2", "--plugins", "math", module, "json", "csv"]
    assert import_plugins({}, ["--seed", "3"]) == ["--seed", "3"]


def test_a_recipe_uses_a_registered_method(tmp_path: Path, module: str) -> None:
    """The method's row is known once its module is imported, and what ran is a recipe that imports it again."""
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path, plugins=[module], method=module)
    config = load_recipe(str(recipe))
    assert config.training.method == module and config.given["plugins"] == [module]
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.given), encoding="utf-8")
    assert load_recipe(str(tmp_path / "again.yaml")).recipe.plugins == [module]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--import", "no_such_module_x"], "plugin 'no_such_module_x': no module no_such_module_x; looked in"),
        (
            ["--import", "sub/mine.py"],
            "plugin 'sub/mine.py': a module goes by its name and not by its file; write sub.mine",
        ),
        (
            ["--reward", "./mine.py:f"],
            "reward './mine.py:f': a module goes by its name and not by its file; write mine",
        ),
        (["--reward", "no_such_module_x:f"], "reward 'no_such_module_x:f': no module"),
        (["--reward", "json:nothing"], "reward 'json:nothing': module json"),
        (["--reward", "json"], "reward 'json' names no object; write it as package.module:Name"),
        (["--turn_signal", "math:pi"], "turn_signal 'math:pi' is a float; give a function"),
    ],
)
def test_what_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    """A path that leads nowhere exits 2 before anything runs and says what was looked for."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"))
    capsys.readouterr()
    assert main(["train", str(recipe), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_rewards_and_signals(module: str) -> None:
    """Functions are taken as they are, a signal's class is made, a made one used; None leaves the package's own."""
    assert [reward.__name__ for reward in load_rewards([f"{module}:length", f"{module}:half"])] == ["length", "half"]
    assert [reward.__name__ for reward in load_rewards(None)] == ["exact_match_reward"]
    assert isinstance(load_turn_signal(f"{module}:judge"), TurnFunction)
    assert type(load_turn_signal(f"{module}:Judge")).__name__ == "Judge"
    assert load_turn_signal(f"{module}:made") is sys.modules[module].made
    assert load_turn_signal(None) is None
    with pytest.raises(RecipeError, match="number' is a int"):
        load_rewards([f"{module}:number"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"turn_signal": "judge"}, "turn_signal='judge' with judge=None: they go together"),
        ({"judge": {"url": "http://127.0.0.1:9/v1", "model": "m"}}, "turn_signal=None with judge="),
        ({"turn_signal": "judge", "judge": {"url": "http://127.0.0.1:9/v1"}}, "missing a required argument: 'model'"),
        ({"turn_signal": "judge", "judge": {"url": "u", "model": "m"}}, "url='u': must be like"),
        (
            {"turn_signal": "judge", "judge": {"url": "http://127.0.0.1:9/v1", "model": "m", "rubrik": "x"}},
            "unexpected keyword argument 'rubrik'; it takes url, model, rubric",
        ),
        ({"turn_signal": "judge", "judge": ["u"]}, "give a mapping with url and model"),
        (
            {"turn_signal": "judge", "judge": {"url": "http://127.0.0.1:9/v1", "model": "m", "timeout_s": 0.3}},
            "judge 'm' gave an example no score: server: http://127.0.0.1:9/v1 gives no answer",
        ),
    ],
)
def test_a_judge_that_cannot_judge_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    """Missing, unknown and wrong arguments, and a server that is not there, are found before anything runs."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), **keys)
    capsys.readouterr()
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_with_a_judge(tmp_path: Path) -> None:
    """From a recipe and, as JSON, from a flag: turns are scored by the server, an example first; what it cost is among
    the metrics, and the page of the run holds the judge's words beside its score."""
    with ChatServer(fair) as server:
        keys: dict[str, Any] = {"turn_signal": "judge", "warm_start_steps": 0, "max_steps": 1}
        recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), **keys)
        judge = {"url": server.url, "model": "judge-1", "cache_dir": str(tmp_path / "cache")}
        assert main(["train", str(recipe), "--judge", json.dumps(judge)]) == 0
        assert record(server.requests[0])["task"] == "What is 2 + 2?"
    directory = RunDirectory(tmp_path / "run")
    (step,) = [json.loads(line) for line in directory.metrics.open(encoding="utf-8")]
    assert step["judge/calls"] == len(server.requests) - 1 and "judge/cached_share" in step
    assert yaml.safe_load(directory.config.read_text())["judge"] == judge


def test_train_and_report_from_the_command_line(tmp_path: Path, module: str) -> None:
    """A run with the user's method, two weighed rewards and a judge, in a process that knows nothing of them but the
    recipe and a flag; the report of it is made with the same flag."""
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        save_policy(tmp_path / "policy"),
        warm_start_steps=0,
        max_steps=1,
        method=module,
        reward=[f"{module}:length", f"{module}:half"],
        reward_weights=[0.1, 2.0],
        turn_signal=f"{module}:judge",
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(*arguments: Any) -> None:
        command = [sys.executable, "-m", "a2tgpo.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr

    run("train", "--import", module, recipe)
    (step,) = [json.loads(line) for line in RunDirectory(tmp_path / "run").metrics.open(encoding="utf-8")]
    assert step["rewards/half/mean"] == 0.5
    assert step["reward"] == pytest.approx(0.1 * step["rewards/length/mean"] + 2.0 * 0.5)
    run("report", tmp_path / "run", "--import", module, "-o", tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000
