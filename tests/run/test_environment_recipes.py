"""A recipe names an environment or tools by dotted path, and every command of a search recipe works with it."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from a2tgpo.cli import main
from a2tgpo.compare.matrix_plan import plan_matrix
from a2tgpo.environments import CallLimits, EnvironmentPool
from a2tgpo.errors import DataError, RecipeError
from a2tgpo.evaluate.outcome import read_outcomes
from a2tgpo.pipeline.rollout_log import RolloutRecord
from a2tgpo.rewards import environment_reward, exact_match_reward
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.played_demonstration import play_demonstrations
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.environment_task import EnvironmentTask
from a2tgpo.run.recipe_file import load_recipe
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine
from tests.run import environment_module
from tests.run.parts import SMALL, save_policy, write_recipe

pytest.importorskip("mcp.client.stdio", reason="pip install 'a2tgpo[mcp]'")  # keeps the standard error of its import

HERE = "tests.run.environment_module"
SERVER = Path(__file__).parents[1] / "environments" / "mcp_server.py"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy that can spell everything."""
    return save_policy(tmp_path_factory.mktemp("policy"), qwen_tokenizer())


def recipe(folder: Path, policy: Path | str, **changes: Any) -> Path:
    """A recipe of two updates in `Number`, with `changes`; None takes a key out."""
    keys = SMALL | dict(
        model_name_or_path=str(policy),
        output_dir=str(folder / "run"),
        environment=f"{HERE}:Number",
        max_prompt_tokens=256,
        max_turn_tokens=64,
        max_completion_length=512,
        max_searches=4,
    )
    path = folder / "recipe.yaml"
    kept = {key: value for key, value in (keys | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")
    return path


def task(folder: Path, **changes: Any) -> EnvironmentTask:
    """The task of a recipe."""
    return EnvironmentTask(load_recipe(str(recipe(folder, "none", **changes))))


class TestKeys:
    """YAML and flags say the same, and contradictions are refused by name."""

    def test_mappings_as_flags(self, tmp_path: Path) -> None:
        """Arguments and servers are mappings in a file and text on the command line."""
        path = recipe(tmp_path, "none", environment_args={"most": 5}, tools=[f"{HERE}:double", {"mcp": ["a", "b"]}])
        config = load_recipe(str(path))
        assert config.recipe.environment_arguments == {"most": 5}
        assert config.recipe.tools == [f"{HERE}:double", {"mcp": ["a", "b"]}]
        flags = ["--environment_args", "{most: 7}", "--tools", "{mcp: http://x/mcp, only: [add]}", f"{HERE}:double"]
        config = load_recipe(str(path), flags)
        assert config.recipe.environment_arguments == {"most": 7}
        assert config.recipe.tools == [{"mcp": "http://x/mcp", "only": ["add"]}, f"{HERE}:double"]
        again = tmp_path / "again.yaml"
        again.write_text(yaml.safe_dump(config.given), encoding="utf-8")
        assert load_recipe(str(again)).recipe == config.recipe

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"corpus": "c.jsonl", "hops": [1]}, "corpus, hops: for search"),
            ({"environment": None, "rows": "a:b"}, "rows: of an environment, and this recipe searches"),
            ({"environment": None, "tools": ["a:b"], "environment_args": {"x": 1}}, "without environment"),
            ({"environment_args": "most"}, "expected a mapping"),
            ({"questions": ["a.jsonl"]}, "questions and eval_questions: give both"),
            ({"warm_start_steps": 2}, "nobody plays for it; give demonstrations"),
            ({"protocol": "json"}, "protocol='json'"),
            ({"call_timeout_s": 0.0}, "timeout_s=0.0"),
        ],
    )
    def test_contradictions(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        """Each is one sentence that names the key."""
        with pytest.raises(RecipeError, match=message.replace("[", r"\[")):
            load_recipe(str(recipe(tmp_path, "none", **changes)))


class TestRows:
    """Rows trained on and rows held out come from one call, and are never the same."""

    def test_of_the_environment(self, tmp_path: Path) -> None:
        """The environment makes them, with its arguments and the recipe's seed."""
        with task(tmp_path, environment_args={"most": 5}, world_seed=2) as opened:
            assert [row["secret"] for row in opened.train_dataset] == [2, 3, 4, 0, 1, 2, 3, 4]
            assert [row["prompt"] for row in opened.eval_questions] == [f"Game {i}." for i in range(8, 14)]
            assert "answer" not in opened.train_dataset.column_names and opened.rewards == [environment_reward]

    def test_of_files(self, tmp_path: Path) -> None:
        """Any columns reach the environment; the file's name is the data set's."""
        for name in ("mine", "held"):
            rows = [{"prompt": [{"role": "user", "content": f"{name} {i}"}], "secret": i} for i in range(4)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        files = {"questions": [str(tmp_path / "mine.jsonl")], "eval_questions": [str(tmp_path / "held.jsonl")]}
        with task(tmp_path, **files, n_eval_questions=3) as opened:
            assert sorted(row["secret"] for row in opened.train_dataset) == [0, 1, 2, 3]
            assert len(opened.eval_questions) == 3 and {row["dataset"] for row in opened.eval_questions} == {"held"}
            assert opened.eval_questions[0]["question"].startswith("held ")

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"environment": f"{HERE}:Counter"}, RecipeError, "has no method rows"),
            ({"rows": f"{HERE}:same"}, DataError, "twice: nothing would be held out"),
            ({"rows": f"{HERE}:halve"}, TypeError, "low, high|'int'|not iterable|subscriptable"),
            ({"rows": f"{HERE}:number"}, RecipeError, "rows '.*:number' is a int"),
            ({"rows": f"{HERE}:nothing"}, RecipeError, "rows '.*:nothing': module .* has no nothing"),
        ],
    )
    def test_that_cannot_be_played(self, tmp_path: Path, changes: dict[str, Any], error: Any, message: str) -> None:
        """Each says which call made what."""
        with pytest.raises(error, match=message):
            task(tmp_path, **changes)


class TestPaths:
    """Whatever is named wrongly is one line before anything runs."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"environment": "no_such_module_x:Y"},
                "'no_such_module_x:Y': no module no_such_module_x; looked in",
            ),
            ({"environment": f"{HERE}:Nobody"}, "has no Nobody; it has"),
            ({"environment": f"{HERE}:number"}, "is a int; give a class"),
            ({"environment": f"{HERE}:Stepping"}, "Stepping has no method reset"),
            ({"environment_args": {"least": 3}}, "TypeError from Number(least=3)"),
            ({"environment": f"{HERE}:NeverBegins"}, "the environment cannot begin the first row"),
            ({"environment": None, "tools": [f"{HERE}:number"]}, "is a int; give a function"),
            ({"tools": [{"mpc": ["a"]}]}, "['mpc'] in"),
            ({"tools": [{"mcp": ["no-such-command-x"]}]}, "MCP server no-such-command-x"),
            ({"environment": None, "tools": [f"{HERE}:double", f"{HERE}:double"], "rows": f"{HERE}:doubles"}, ""),
        ],
    )
    def test_one_line(
        self,
        tmp_path: Path,
        policy: Path,
        capsys: pytest.CaptureFixture[str],
        changes: dict[str, Any],
        message: str,
    ) -> None:
        """It exits 2, and the run has not begun."""
        capsys.readouterr()
        status = main(["train", str(recipe(tmp_path, policy, **changes)), "--max_steps", "0"])
        error = capsys.readouterr().err
        if message:
            assert status == 2 and message in error and error.count("error: ") == 1, error
            assert not (tmp_path / "run" / "config.yaml").exists()
        else:
            assert status == 0, error  # one function named twice is one tool

    def test_no_answer_to_read(self, tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A method of gains, and nobody who knows the answer."""
        rows = {"environment": f"{HERE}:Counter", "rows": f"{HERE}:same_prompts"}
        environment_module.same_prompts = lambda n, seed: [{"prompt": f"{i}"} for i in range(n)]
        assert main(["train", str(recipe(tmp_path, policy, **rows))]) == 2
        assert "nobody knows it" in capsys.readouterr().err


def test_train_go_on_and_evaluate(tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warm start by a player, evaluation before and after, more updates later, and an evaluation by another command:
    tables tell success and reward with intervals, and no exact match, which nobody asked for."""
    path = recipe(tmp_path, policy, demonstrations=f"{HERE}:halve", warm_start_steps=2, warm_start_batch_size=4)
    assert main(["train", str(path), "--max_steps", "1"]) == 0
    assert main(["train", str(path), "--max_steps", "2", "--resume_from_checkpoint", "true"]) == 0
    directory = RunDirectory(tmp_path / "run")
    assert [json.loads(line)["step"] for line in directory.metrics.open(encoding="utf-8")] == [1, 2]
    summary = json.loads(directory.summary.read_text(encoding="utf-8"))
    assert set(summary) == {f"{when}, {mode}" for when in ("before", "after") for mode in ("greedy", "sampled")}
    told = summary["after, greedy"]
    assert told["success"]["total"] == 6 and "exact_match" not in told
    outcomes = read_outcomes(directory.evaluation("after_greedy"))
    assert [outcome.answer for outcome in outcomes] == [[str((8 + i) % 9)] for i in range(6)]
    assert all(outcome.success is False for outcome in outcomes if outcome.termination != "environment_done")
    logged = [json.loads(line) for line in (directory.rollouts / "step_000000.jsonl").open(encoding="utf-8")]
    assert all(record["answer"] and record["observed"] == " It is below 9." for record in logged)
    capsys.readouterr()
    flags = ["--model", str(directory.model), "--output_dir", str(tmp_path / "eval")]
    assert main(["eval", str(path), *flags]) == 0
    assert "success" in capsys.readouterr().out
    again = read_outcomes(RunDirectory(tmp_path / "eval").evaluation("eval_greedy"))
    assert [(o.id, o.success, o.text) for o in again] == [(o.id, o.success, o.text) for o in outcomes]


def test_tools_of_a_server_and_a_function(tmp_path: Path, policy: Path) -> None:
    """Without an environment the rows' answers give exact match; a server's tools and a function stand side by side,
    and the server is gone after the run."""
    tools = [f"{HERE}:double", {"mcp": [sys.executable, str(SERVER), "stdio"], "only": ["add"]}]
    changes = {"environment": None, "tools": tools, "rows": f"{HERE}:doubles"}
    with task(tmp_path, **changes) as opened:
        agent = opened.agent(qwen_tokenizer())
        assert opened.rewards == [exact_match_reward] and [t.name for t in agent.environment.tools] == ["double", "add"]
        scripts = ['<think> a </think> <add> {"a": 2, "b": 3} </add>', "<think> a </think> <double> 4 </double>"]
        ends = r"<think> b </think> <answer> \boxed{5} </answer>"
        rows = opened.eval_questions[:2]
        made = agent.run(
            [row["prompt"] for row in rows], ScriptedEngine(agent.tokenizer, [[s, ends] for s in scripts]), rows=rows
        )
        shown = [agent.tokenizer.decode(rollout.completion_ids) for rollout in made]
        assert "<result>\n5\n</result>" in shown[0] and "<result>\n8\n</result>" in shown[1]
    assert main(["train", str(recipe(tmp_path, policy, **changes))]) == 0
    summary = json.loads(RunDirectory(tmp_path / "run").summary.read_text(encoding="utf-8"))
    assert summary["after, greedy"]["exact_match"]["total"] == 6


def test_demonstrations_are_what_a_policy_would_have_written() -> None:
    """A player's episodes have the tokens and the mask of a rollout whose policy wrote the same turns."""
    tokenizer = qwen_tokenizer()
    source = EnvironmentPool(environment_module.Number, CallLimits())
    agent = Agent(tokenizer, source, RolloutLimits(max_prompt_tokens=256))
    row = {"prompt": "Play.", "secret": 6}
    (made,) = play_demonstrations(agent, [row], environment_module.halve)
    turns = [f"<think> between {low} and 8 </think> <guess> {guess} </guess>" for low, guess in ((0, 4), (5, 6))]
    (rollout,) = agent.run([row["prompt"]], ScriptedEngine(tokenizer, [turns]), rows=[row])
    assert made["input_ids"] == rollout.ids
    assert made["completion_mask"] == [0] * len(rollout.prompt_ids) + rollout.model_mask
    assert tokenizer.decode(rollout.completion_ids).count("higher") == 1


def test_a_server_plays_in_a_recipe_s_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Behind an OpenAI-compatible server a model plays the held-out episodes, in tags or native calls, and the table is
    that of a checkpoint; what was answered is kept, and the same command asks nobody again."""
    pytest.importorskip("openai")
    from tests.evaluate.chat_server import ChatServer, Says, turn_of

    def halves(request: dict[str, Any], *, native: bool) -> Says:
        said = [m["content"] for m in request["messages"] if m["role"] == ("tool" if native else "user")]
        heard = [*([] if native else said[1:]), *(said if native else [])]
        low, high = 0, 8
        for answer in heard:
            guess = (low + high) // 2
            low, high = (guess + 1, high) if "higher" in answer else (low, guess - 1)
        guess = (low + high) // 2
        if native:
            return Says(calls=(("guess", json.dumps({"text": str(guess)})),), finish_reason="tool_calls")
        return Says(f"<think> a </think> <guess> {guess} ")

    for protocol in ("tags", "tools"):
        path = recipe(tmp_path, "none", protocol=protocol)
        folder = tmp_path / protocol
        with ChatServer(lambda request, native=protocol == "tools": halves(request, native=native)) as server:
            command = ["eval", str(path), "--model", "m", "--base_url", server.url, "--output_dir", str(folder)]
            assert main(command) == 0
            out = capsys.readouterr().out
            assert "success" in out and "1.000" in out
            n_requests = len(server.requests)
            assert {turn_of(request) for request in server.requests} > {0, 1}
            first = server.requests[0]["messages"]
            assert first[-1]["content"].startswith("Game ") and first[-1]["content"].endswith(" It is below 9.")
            assert "guess" in first[0]["content"] or protocol == "tools"
            assert main(command) == 0
            assert len(server.requests) == n_requests
        outcomes = read_outcomes(RunDirectory(folder).evaluation("eval_greedy"))
        assert [outcome.reward for outcome in outcomes] == [
            pytest.approx(1.0 - 0.1 * (outcome.searches - 1)) for outcome in outcomes
        ]
        assert all(outcome.success and outcome.termination == "environment_done" for outcome in outcomes)


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy with a token for each word of Qwen3's template, so that a prompt with tools is short."""
    folder = tmp_path_factory.mktemp("speller")
    call = {"type": "function", "function": {"name": "guess", "arguments": {"text": "1"}}}
    talk = [
        {"role": "user", "content": "Game 1. It is below 3."},
        {"role": "assistant", "content": "<think> between 0 and 2 </think>", "tool_calls": [call]},
        {"role": "tool", "name": "guess", "content": "higher lower right"},
    ]
    tools = [tool.schema for tool in environment_module.Number.tools]
    tokenizer = qwen_tokenizer([str(qwen_tokenizer().apply_chat_template(talk, tools=tools, tokenize=False))] * 2)
    return save_policy(folder, tokenizer)


def test_a_run_with_native_tool_calls(tmp_path: Path, speller: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through Qwen3's chat template, from end to end: the player's tags become the template's calls, of which the warm
    start makes a policy that calls; the environment answers in the template's words; evaluation, `a2tgpo eval` and the
    report show the calls."""
    keys = dict(protocol="tools", demonstrations=f"{HERE}:halve", environment_args={"most": 3}, max_prompt_tokens=2048)
    keys |= dict(warm_start_steps=120, warm_start_batch_size=8, warm_start_learning_rate=1e-2, max_steps=1)
    path = recipe(tmp_path, speller, **keys, max_turn_tokens=96, max_completion_length=1024, num_generations=4)
    assert main(["train", str(path)]) == 0
    directory = RunDirectory(tmp_path / "run")
    lines = (directory.rollouts / "step_000000.jsonl").read_text(encoding="utf-8").splitlines()
    records = [RolloutRecord.from_line(line) for line in lines]
    called = [record for record in records if record.calls]
    assert called
    for record in called:
        first, shown = record.segments[0], record.segments[1]
        assert first.turn == 0 and '<tool_call>\n{"name": "guess"' in first.text
        assert shown.turn == -1 and "<tool_response>\n" in shown.text
        assert record.calls[0].tool == "guess" and record.gain is not None
    told = json.loads(directory.summary.read_text(encoding="utf-8"))["after, greedy"]
    assert told["success"]["hits"] >= 4 and told["searches"] >= 1
    capsys.readouterr()
    flags = ["--model", str(directory.model), "--output_dir", str(tmp_path / "eval")]
    assert main(["eval", str(path), *flags]) == 0
    assert "success" in capsys.readouterr().out
    again = read_outcomes(RunDirectory(tmp_path / "eval").evaluation("eval_greedy"))
    assert [o.text for o in again] == [o.text for o in read_outcomes(directory.evaluation("after_greedy"))]
    assert main(["report", str(directory.root), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'data-block="[^"]*">([^<]*)<', page)
    texts = [gzip.decompress(base64.b64decode(block)).decode() for block in blocks]
    assert any("<tool_call>" in text and "guess" in text for text in texts)


def test_evaluation_during_training(tmp_path: Path, policy: Path) -> None:
    """`eval_strategy` plays the held-out rows between the updates; its numbers stand in metrics.jsonl, no rollout of
    theirs is logged as trained on, a run that goes on makes none of them twice, and search does the same."""
    keys = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 1, "per_device_eval_batch_size": 3}
    path = recipe(tmp_path, policy, **keys)
    assert main(["train", str(path), "--max_steps", "1"]) == 0
    assert main(["train", str(path), "--resume_from_checkpoint", "true"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    evaluated = [line for line in lines if "eval_reward" in line]
    assert [line["step"] for line in evaluated] == [1, 2] and len(lines) == 4
    assert all(line["eval_rollout/invalid"] == 0 for line in evaluated)
    logged = (tmp_path / "run" / "rollouts" / "step_000001.jsonl").read_text("utf-8").splitlines()
    assert len(logged) == 4
    searching = write_recipe(tmp_path / "search.yaml", save_policy(tmp_path / "searcher"), **keys, max_steps=1)
    assert main(["train", str(searching), "--output_dir", str(tmp_path / "searched")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "searched" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert any("eval_reward" in line for line in lines)


def test_methods_without_a_turn_signal_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What only some methods read (the turns' signal, its weight) is passed on to those, from the file or as a flag;
    the runs of the others do without, and the start that they share."""
    path = recipe(tmp_path, "none", process_signal="environment", gain_alpha=0.3)
    plan = plan_matrix(str(path), "grpo,a2tgpo,gigpo", 1, tmp_path / "all", ["--clip_beta", "0.2"])
    assert not {"process_signal", "gain_alpha", "clip_beta"} & plan.common.keys()
    plan.begin()
    for method, keys in (("grpo", None), ("gigpo", None), ("a2tgpo", ("environment", 0.3, 0.2))):
        (_, name, *flags) = plan.matrix.cell(method, 0).arguments(plan.matrix.recipe)
        training = load_recipe(name, flags).training
        assert training.method == method
        found = (training.process_signal, training.gain_alpha, training.clip_beta)
        assert found == keys if keys else found[:2] == ("policy", None)
    load_recipe(str(plan.matrix.recipe), [*plan.matrix.start(0).flags, "--output_dir", str(tmp_path / "start")])
    with pytest.raises(RecipeError, match="method 'grpo' has no such parameter"):
        load_recipe(str(path), ["--method", "grpo"])
    judged = recipe(tmp_path, "none", turn_signal="judge", judge={"url": "http://127.0.0.1:9/v1", "model": "m"})
    plan = plan_matrix(str(judged), "grpo,a2tgpo", 1, tmp_path / "judged", [])
    plan.begin()
    (_, name, *flags) = plan.matrix.cell("a2tgpo", 0).arguments(plan.matrix.recipe)
    assert load_recipe(name, flags).recipe.judge == {"url": "http://127.0.0.1:9/v1", "model": "m"}
    (_, name, *flags) = plan.matrix.cell("grpo", 0).arguments(plan.matrix.recipe)
    assert load_recipe(name, flags).recipe.turn_signal is None


def test_a_run_s_recipe_is_asked_for_its_secrets(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration of a run has `***` where a secret stood, in whatever form it was given. The recipe that began
    the run goes on with it; its own configuration is refused, with the place and the remedy, and taken with the secret
    given again. Variables by name are no secret."""
    monkeypatch.setenv("SERVICE_KEY", "key-of-the-service")
    served = {"mcp": [sys.executable, str(SERVER), "stdio", "--api-key", "tulips-and-oaks"], "only": ["add"]}
    served["environment"] = {"API_TOKEN": "birch-and-elm"}
    changes = {"tools": [served], "environment_args": {"password": "hazel-and-ash"}, "max_steps": 1}
    path = recipe(tmp_path, policy, **changes, environment=f"{HERE}:Locked")
    assert main(["train", str(path)]) == 0
    written = RunDirectory(tmp_path / "run").config
    text = written.read_text(encoding="utf-8")
    assert not any(secret in text for secret in ("tulips", "birch", "hazel")) and text.count("***") == 3
    assert main(["train", str(path), "--max_steps", "2", "--resume_from_checkpoint", "true"]) == 0
    capsys.readouterr()
    command = ["eval", str(written), "--model", str(policy), "--output_dir", str(tmp_path / "eval")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "environment_args.password, tools.0.environment.API_TOKEN, tools.0.mcp.4 held a secret" in said
    assert "--environment_args and --tools" in said
    again = ["--tools", yaml.safe_dump({**served, "environment": ["SERVICE_KEY"]}, default_flow_style=True, width=999)]
    again += ["--environment_args", "{password: hazel-and-ash}"]
    assert main([*command, *again]) == 0
    text = RunDirectory(tmp_path / "eval").config.read_text(encoding="utf-8")
    assert "SERVICE_KEY" in text and "hazel" not in text and "tulips" not in text


class Copied(environment_module.Number):
    """The same game, which can be copied."""

    def fork(self) -> Copied:
        """Copy."""
        return copy.copy(self)


@pytest.mark.parametrize("method", ["tree-grpo", "aepo", "dapo", "gigpo"])
def test_every_way_to_sample(tmp_path: Path, policy: Path, method: str) -> None:
    """Trees, entropy branches, dynamic sampling and anchor states need no key but the method's."""
    changes = {"environment": "tests.run.test_environment_recipes:Copied", "method": method, "num_generations": 8}
    changes |= {"per_device_train_batch_size": 8, "max_steps": 1, "n_eval_questions": 2}
    assert main(["train", str(recipe(tmp_path, policy, **changes))]) == 0
    assert (tmp_path / "run" / "summary.md").is_file()


def test_a_tree_needs_a_copy(tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be copied is refused before the run begins."""
    changes = {"method": "tree-grpo", "num_generations": 8, "per_device_train_batch_size": 8}
    assert main(["train", str(recipe(tmp_path, policy, **changes))]) == 2
    assert "method 'tree-grpo': Number has no fork()" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()
