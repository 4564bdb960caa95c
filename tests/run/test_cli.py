"""The command line from end to end, as a user meets it: real processes, a tiny random policy, the generated world."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config import load_config_from_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from a2tgpo.cli import main
from a2tgpo.evaluate.outcome import read_outcomes
from a2tgpo.evaluate.questions import Summary, evaluate_questions
from a2tgpo.integrations.trl.callbacks import replace_progress
from a2tgpo.pretrained import EMBEDDED
from a2tgpo.rewards import exact_match_reward
from tests.run.parts import Command, save_policy, write_recipe

RESUME = ("--resume_from_checkpoint", "true")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy."""
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Command:
    """A whole run: 2 warm-start steps, 2 updates, evaluation before and after."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder / "recipe.yaml", policy, max_steps=9)
    command = Command.start(folder, "train", recipe, "--max_steps", "2")
    command.wait()
    return command


def lines(path: Path) -> list[dict[str, Any]]:
    """Records of a JSONL file, refusing what is not strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path.name}: {constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


# --- a run and what it leaves ----------------------------------------------------------------------------------------


def test_a_run_ends_well_and_says_what_matters(trained: Command) -> None:
    """Exit 0; the output has the warm start, the table with both policies and both ways of sampling, and the folder;
    the error stream has progress and no warning."""
    assert trained.process.returncode == 0, trained.errors
    for text in ("warm start: 2 steps", "before, greedy", "after, sampled", "exact match", f"{trained.folder / 'run'}"):
        assert text in trained.output
    assert "updates" in trained.errors and "before greedy" in trained.errors
    assert not re.search("warning|traceback|deprecated", trained.errors, re.IGNORECASE)


def test_everything_is_in_one_directory(trained: Command) -> None:
    """Configuration, corpus, warm start, metrics of every step, rollouts of every batch, checkpoints, the final policy,
    the answer to every evaluated question, and the table."""
    run = trained.folder / "run"
    assert [record["step"] for record in lines(run / "metrics.jsonl")] == [1, 2]
    logged = set(lines(run / "metrics.jsonl")[0])
    assert logged >= {"reward", "rollout/format_rate", "rollout/turns", "likelihood/before", "seconds/generation"}
    names = sorted(path.name for path in (run / "rollouts").iterdir())
    assert names == [f"{kind}_00000{step}.jsonl" for kind in ("step", "updates") for step in (0, 1)]
    assert len(lines(run / "rollouts" / "step_000000.jsonl")) == 4
    assert {path.name for path in (run / "checkpoints").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert len(lines(run / "corpus.jsonl")) == 24 + 12
    assert [row["step"] for row in json.loads((run / "warm_start" / "losses.json").read_text())] in ([], [2])
    for folder in (run / "warm_start", run / "model"):
        AutoModelForCausalLM.from_pretrained(folder)
        assert AutoTokenizer.from_pretrained(folder).eos_token == "<|end|>"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert list(summary) == ["before, greedy", "before, sampled", "after, greedy", "after, sampled"]
    for name, numbers in summary.items():
        outcomes = read_outcomes(run / "eval" / f"{name.replace(', ', '_')}.jsonl")
        assert len(outcomes) == 6 and numbers == json.loads(json.dumps(Summary.of(outcomes).as_json()))
    table, reading, *curves = (run / "summary.md").read_text(encoding="utf-8").split("\n\n")
    assert table.count("\n") == 5 and reading.startswith("Reading: of 6 held-out questions") and "▁" in curves[0]


def test_a_run_is_not_written_over(trained: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again exits 2 with both ways out, and leaves every file as it was."""
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")}
    assert main(["train", str(trained.folder / "recipe.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: output_dir=") and "another --output_dir" in error and " ".join(RESUME) in error
    assert {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")} == before


def test_resuming_a_finished_run_shows_its_table(trained: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained or evaluated again; the table is that of the run."""
    run = trained.folder / "run"
    kept = [run / "metrics.jsonl", run / "model" / "model.safetensors", run / "eval" / "after_greedy.jsonl"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert main(["train", str(trained.folder / "recipe.yaml"), "--max_steps", "2", *RESUME]) == 0
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert "after, sampled" in capsys.readouterr().out


def test_eval_repeats_the_runs_own_evaluation(trained: Command, tmp_path: Path) -> None:
    """What ran is itself a recipe, flags included, and evaluating the run's final policy with it gives the outcomes the
    run had, greedy and sampled, question by question."""
    run = trained.folder / "run"
    config = ["eval", str(run / "config.yaml"), "--output_dir", str(tmp_path / "new"), "--model", str(run / "model")]
    assert "max_steps: 2" in (run / "config.yaml").read_text(encoding="utf-8")
    assert main(config) == 0
    for mode in ("greedy", "sampled"):
        own = read_outcomes(run / "eval" / f"after_{mode}.jsonl")
        assert read_outcomes(tmp_path / "new" / "eval" / f"eval_{mode}.jsonl") == own
    assert str(run / "model") in (tmp_path / "new" / "config.yaml").read_text(encoding="utf-8")


def test_an_evaluation_never_reads_another_ones_outcomes(trained: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """In the directory of a run it is refused, and there is nothing of it to resume."""
    recipe = str(trained.folder / "recipe.yaml")
    for resume in ([], RESUME):
        assert main(["eval", recipe, *resume]) == 2
        error = capsys.readouterr().err
        assert "holds a training run" in error and "choose another --output_dir" in error


def test_a_stopped_evaluation_goes_on(
    trained: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped after its first mode, the same command reads that one, makes the other, and shows the table of an
    evaluation that was never stopped; then it only shows the table. Another recipe, model or resume flag without an
    evaluation is refused by name."""
    run = trained.folder / "run"
    command = ["eval", str(run / "config.yaml"), "--model", str(run / "model"), "--output_dir"]
    made: list[str] = []

    def evaluate(*arguments: Any, **options: Any) -> Any:
        if made == ["stop"]:
            raise KeyboardInterrupt
        made.append("stop" if not made else "made")
        return evaluate_questions(*arguments, **options)

    monkeypatch.setattr("a2tgpo.run.held_out.evaluate_questions", evaluate)
    stopped = tmp_path / "stopped"
    assert main([*command, str(stopped)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [path.name for path in (stopped / "eval").glob("*.jsonl")] == ["eval_greedy.jsonl"]
    made.append("went on")
    greedy = (stopped / "eval" / "eval_greedy.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*command, str(stopped)]) == 0
    assert made == ["stop", "went on", "made"] and (stopped / "eval" / "eval_greedy.jsonl").stat().st_mtime_ns == greedy
    table = capsys.readouterr().out
    for again in ([], RESUME):
        assert main([*command, str(stopped), *again]) == 0
        assert capsys.readouterr().out == table
    assert made == ["stop", "went on", "made"]
    for mode in ("greedy", "sampled"):
        own = read_outcomes(run / "eval" / f"after_{mode}.jsonl")
        assert read_outcomes(stopped / "eval" / f"eval_{mode}.jsonl") == own
    for changed, value, said in (
        ("--max_searches", "3", "max_searches was"),
        ("--model", EMBEDDED, "model_name_or_path"),
    ):
        assert main([*command, str(stopped), changed, value]) == 2
        assert said in capsys.readouterr().err
    assert main([*command, str(tmp_path / "nothing"), *RESUME]) == 2
    assert "no run to resume" in capsys.readouterr().err


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


class CtrlC(TrainerCallback):
    """Ctrl-C in the second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_continues(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the warm start and again in the updates, there of a process of its own: each time exit 130, told how to
    go on, without a traceback; the second leaves a checkpoint of the step it was in. The resumed run warm-starts once,
    takes every step once and in order up to `max_steps`, and ends like one that was never interrupted."""
    recipe = write_recipe(tmp_path / "recipe.yaml", policy, warm_start_steps=6, max_steps=10, save_steps=500)
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"

    def interrupted(trainer: Any, progress: Any) -> None:
        replace_progress(trainer, progress)
        trainer.add_callback(CtrlC())

    with monkeypatch.context() as patched:
        patched.setattr("a2tgpo.run.warm_start.replace_progress", interrupted)
        assert main(["train", str(recipe)]) == 130
    assert not (run / "warm_start" / "losses.json").exists() and not metrics.exists()
    said = capsys.readouterr().err
    assert "interrupted: nothing more was saved" in said and " ".join(RESUME) in said and "Traceback" not in said

    second = Command.start(tmp_path / "2", "train", recipe, *RESUME)
    assert second.interrupt_when(metrics.exists) == 130
    done = [record["step"] for record in lines(metrics)]
    assert 1 <= len(done) < 10 and done == list(range(1, len(done) + 1))
    assert [path.name for path in (run / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{len(done)}"]
    assert f"checkpoint kept in {run / 'checkpoints'}" in second.errors and "Traceback" not in second.errors
    assert not (run / "model").exists()
    warm_started = (run / "warm_start" / "losses.json").stat().st_mtime_ns

    assert main(["train", str(recipe), *RESUME]) == 0
    assert [record["step"] for record in lines(metrics)] == list(range(1, 11))
    assert json.loads((run / "checkpoints" / "checkpoint-10" / "trainer_state.json").read_text())["global_step"] == 10
    assert (run / "warm_start" / "losses.json").stat().st_mtime_ns == warm_started
    printed = capsys.readouterr().out
    assert "warm start" not in printed and "after, sampled" in printed
    assert len(list((run / "rollouts").glob("step_*.jsonl"))) == 10


def test_sigterm_in_the_warm_start_says_how_to_go_on(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Slurm and Docker send ends a part that keeps no checkpoint as Ctrl-C does, with 143; afterwards the signal
    has its old meaning."""
    before = signal.getsignal(signal.SIGTERM)

    def terminated(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("a2tgpo.run.warm_start.replace_progress", terminated)
    recipe = write_recipe(tmp_path / "recipe.yaml", policy, warm_start_steps=6, max_steps=10)
    assert main(["train", str(recipe)]) == 143
    said = capsys.readouterr().err
    assert "interrupted: nothing more was saved" in said and " ".join(RESUME) in said and "Traceback" not in said
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_interrupt_in_the_last_step_costs_nothing(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while the last step is scored: the run stops as asked, but the updates are complete, so that the resumed
    run takes no step more and only evaluates."""

    def interrupting(**columns: Any) -> list[float | None]:
        os.kill(os.getpid(), signal.SIGINT)
        return exact_match_reward(**columns)

    monkeypatch.setattr("a2tgpo.run.base_task.exact_match_reward", interrupting)
    command = ["train", str(write_recipe(tmp_path / "recipe.yaml", policy, max_steps=1, warm_start_steps=0))]
    assert main(command) == 130
    assert "interrupted: checkpoint kept" in capsys.readouterr().err
    assert main([*command, *RESUME]) == 0
    assert [record["step"] for record in lines(tmp_path / "run" / "metrics.jsonl")] == [1]
    assert "after, greedy" in capsys.readouterr().out


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_serches", "3"], "unknown recipe key 'max_serches': did you mean 'max_searches'?"),
        (["--max_searches", "three"], "max_searches"),
        (["--max_turn_tokens", "0"], "max_turn_tokens=0: must be at least 1"),
        (["--model_name_or_path", "no/such/policy"], "model 'no/such/policy' cannot be loaded"),
        (["--questions", "no.jsonl", "--eval_questions", "no.jsonl", "--corpus", "no.jsonl"], "no.jsonl"),
        (["--questions", "no.jsonl"], "give questions, eval_questions and corpus together"),
        (["--n_train_questions", "100000"], "n=100000"),
        ([*RESUME], "no run to resume"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    """A mistake of the user's exits 2 with one sentence that names it, and no run begins: the corrected command may use
    the same directory."""
    recipe = write_recipe(tmp_path / "recipe.yaml", policy)
    assert main(["train", str(recipe), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_only_training_runs_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another command under a launcher of several processes would do its work twice over: it says so, once."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["eval", "recipe.yaml"]) == 2
    assert "`a2tgpo eval` runs in one process, and a launcher started 2" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["eval", "recipe.yaml"]) == 2
    assert capsys.readouterr().err == ""


def test_launch_configurations_are_listed_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    """`a2tgpo launcher` lists what `a2tgpo launcher NAME` prints the path of; another name is refused with the list."""
    assert main(["launcher"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"ddp", "fsdp2", "fsdp2_two_nodes", "zero2"} <= set(names)
    for name in names:
        assert main(["launcher", name]) == 0
        load_config_from_file(capsys.readouterr().out.strip())  # accelerate's own reader
    assert main(["launcher", "fsdp"]) == 2
    assert "launcher 'fsdp': there is none of this name, but ddp, " in capsys.readouterr().err


def test_a_misspelt_key_is_refused_before_trl_is_imported() -> None:
    """Neither torch nor TRL is needed to say that a key does not exist, so the answer comes in well under two seconds,
    and it is the only thing said."""
    code = "import sys, a2tgpo.cli as cli\nstatus = cli.main(sys.argv[1:])\nprint(status, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "train", "hops_cpu", "--max_serches", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "2 False\n"
    assert done.stderr == "error: unknown recipe key 'max_serches': did you mean 'max_searches'?\n"


def test_without_trl_the_error_names_the_extra() -> None:
    """Where TRL is not installed, training, its keys and the trainer say which extra brings it; help still works."""
    code = """
import sys
sys.modules["trl"] = None  # as if it were not installed
import a2tgpo, a2tgpo.cli as cli
print([cli.main(command) for command in (["train", "hops_cpu"], ["keys"], ["recipes"])])
try:
    a2tgpo.A2TGPOTrainer
except ImportError as error:
    print(error, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("[2, 2, 0]\n"), done.stderr
    said = done.stderr.splitlines()
    assert len(said) == 3 and all(line.endswith("pip install 'a2tgpo[trl]'") for line in said), said


@pytest.mark.parametrize("n_lines", [0, 1])
def test_who_reads_the_output_may_leave(n_lines: int) -> None:
    """`a2tgpo keys | head` ends as other programs do, by SIGPIPE's status and without a word."""
    command = [
        sys.executable,
        "-c",
        "import time; from a2tgpo.cli import main; time.sleep(0.5); raise SystemExit(main(['keys']))",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(n_lines):
            process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    # What fits into a pipe may all have been written before the reader left.
    assert process.returncode in ([128 + signal.SIGPIPE] if n_lines == 0 else [0, 128 + signal.SIGPIPE])


def test_keys_takes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`a2tgpo keys` prints the list and refuses arguments it would ignore."""
    assert main(["keys"]) == 0
    assert "\nmax_searches: 6 " in capsys.readouterr().out
    assert main(["keys", "max_searches"]) == 2


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["train"], ["eval"], ["train", "recipes/hops_cpu.yaml"]])
def test_help_is_quick_and_leads_on(arguments: list[str]) -> None:
    """Help needs neither torch nor a recipe, and a command's says how a key is set and where they are listed."""
    code = "import sys, a2tgpo.cli as cli\ntry: cli.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("False\n"), done.stderr
    for text in ("a2tgpo keys", "--max_steps 50") if arguments else ("train", "eval", "keys"):
        assert text in done.stdout
