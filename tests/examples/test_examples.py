"""The examples run as they stand: as scripts, in a folder of their own, with a small policy in place of a large one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluate.chat_server import ChatServer
from tests.integrations.parts import qwen_tokenizer
from tests.run.parts import save_policy
from tests.signals.test_judge import fair

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy with a chat template that has tool calls."""
    return save_policy(tmp_path_factory.mktemp("policy"), qwen_tokenizer())


def run(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints."""
    path = os.pathsep.join([str(EXAMPLES.parent / "src"), str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    quiet = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONPATH": path}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(("name", "most"), [("own_environment.py", 45), ("trl_tools.py", 32)])
def test_a_training_script_makes_its_updates(name: str, most: int, policy: Path, tmp_path: Path) -> None:
    """Two updates, and a model at the end of them; no longer than it says."""
    assert "'train_loss'" in run(name, tmp_path, str(policy))
    assert len((EXAMPLES / name).read_text().splitlines()) <= most


def test_a_judges_scores_train(policy: Path, tmp_path: Path) -> None:
    """Over a real server, which is asked about every rollout that looked something up; in forty lines."""
    with ChatServer(fair) as server:
        assert "'train_loss'" in run("judged_turns.py", tmp_path, str(policy), server.url, "judge-1")
    assert len((EXAMPLES / "judged_turns.py").read_text().splitlines()) <= 40


def test_a_step_on_tensors_needs_torch_alone(tmp_path: Path) -> None:
    """It prints the paper's quantities: gains at depth 1 that normalise to ±1, and a gradient on the policy's tokens
    and on no other."""
    printed = run("a2tgpo_on_tensors.py", tmp_path)
    lines = {line[:20].strip(): eval(line[20:]) for line in printed.splitlines()}  # noqa: S307: lists of numbers
    assert lines["turn of each token"] == [[0, 0, -1, 1, -1, 2], [0, 0, -1, 1, -1, -1]]
    first, second = lines["advantage"]
    assert first[0] == pytest.approx(2**-0.5 + 1, abs=1e-3) and second[:2] == pytest.approx([-2, -1], abs=1e-3)
    gradient = lines["gradient"]
    assert all(g == 0 for row in gradient for g, turn in zip(row, [0, 0, -1, 1, -1, 2], strict=True) if turn < 0)
    assert gradient[0][5] < 0 < gradient[1][3]


def test_a_credit_rule_is_a_row_of_the_table(tmp_path: Path, policy: Path) -> None:
    """Imported, its name is a method that trains."""
    script = tmp_path / "train.py"
    script.write_text(
        (EXAMPLES / "own_credit_rule.py").read_text()
        + (EXAMPLES / "trl_tools.py").read_text().replace('"out", ', '"out", method="reward_plus_gain", ')
    )
    assert "'train_loss'" in run(str(script), tmp_path, str(policy))
