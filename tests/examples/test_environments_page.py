"""`docs/environments.md` works as it stands: its files make a run, and its snippets run one after the other."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from a2tgpo import A2TGPOTrainer, TagRollout, environments
from a2tgpo.cli import main
from a2tgpo.environments.mcp_tools import MCPTools
from a2tgpo.rewards import environment_reward
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.turn_protocol import ToolCallProtocol
from tests.integrations.parts import config, questions, qwen_tokenizer, tiny_llama

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's code in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's two files in it, where its commands are given."""
    (tmp_path / "games.py").write_text(blocks("python")[0], encoding="utf-8")
    (tmp_path / "guess.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("a2tgpo.untrained.HF_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_the_first_run(newcomer: Path) -> None:
    """Its commands, with a short warm start and two updates; the second makes the page of the run."""
    train, report = (line.split()[1:] for line in blocks("bash")[0].splitlines())
    assert main([*train, "--warm_start_steps", "2", "--max_steps", "2", "--n_eval_questions", "4"]) == 0
    assert "success" in (newcomer / "runs" / "guess" / "summary.md").read_text(encoding="utf-8")
    assert main(report) == 0
    assert (newcomer / "report.html").is_file()


def test_the_snippets(newcomer: Path) -> None:
    """Each after the one before, with the names that `examples/own_environment.py` has; those of OpenEnv and verifiers
    need a server and packages that do not go with ours."""
    pytest.importorskip("mcp.client.stdio", reason="pip install 'a2tgpo[mcp]'")
    server = (ROOT / "tests" / "environments" / "mcp_server.py").read_text(encoding="utf-8")
    served = server.replace("def double(", "def query(").replace(
        "server.run(sys.argv[1], **options)", 'server.run("stdio")'
    )
    (newcomer / "server.py").write_text(served, encoding="utf-8")
    tokenizer = qwen_tokenizer()
    names: dict[str, Any] = vars(environments) | {
        "tokenizer": tokenizer,
        "model": tiny_llama(tokenizer),
        "config": config(newcomer, process_signal="environment"),
        "data": questions(),
        "limits": RolloutLimits(),
        "system_prompt": "Guess inside <guess> and </guess>.",
        **{
            made.__name__: made
            for made in (A2TGPOTrainer, TagRollout, Agent, RolloutLimits, ToolCallProtocol, MCPTools)
        },
        "environment_reward": environment_reward,
    }
    for code in blocks("python"):
        if not re.search(r"^import verifiers|^from openenv", code, re.MULTILINE):
            exec(compile(code, "docs/environments.md", "exec"), names)  # noqa: S102: the page's own
    assert [tool.name for tool in names["agent"].environment.tools] == ["query"]


def test_recipes_of_the_page_are_those_of_the_package() -> None:
    """Every recipe it names is there, and every environment's recipe is named."""
    shipped = {
        path.stem
        for path in (ROOT / "recipes").glob("*.yaml")
        if re.search(r"^(environment|tools):", path.read_text("utf-8"), re.M)
    }
    named = set(re.findall(r"`(\w+)`", PAGE.partition("| Recipe |")[2].partition("\n\n")[0]))
    assert named >= shipped and {name for name in named if (ROOT / "recipes" / f"{name}.yaml").is_file()} == shipped
