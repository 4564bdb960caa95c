"""Run directories in every state are read, and what is missing is said."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest

from a2tgpo.errors import DataError
from a2tgpo.files import UNFINISHED
from a2tgpo.pipeline.rollout_log import updates_file
from a2tgpo.report.run_data import read_runs
from a2tgpo.report.terms import add_terms
from tests.report.runs import save_tokenizer, write_evaluation, write_run


def test_a_whole_run(tmp_path: Path) -> None:
    """Everything written is read, nothing is complained about, and a batch carries the step of its first update."""
    path = write_run(tmp_path / "run", batches=2, questions=2, rollouts=4)
    write_evaluation(path, "before_greedy", [True, False])
    write_evaluation(path, "after_greedy", [True, True])
    write_evaluation(path, f"{UNFINISHED}after_sampled", [True])  # being written, or left by a kill
    (run,) = read_runs([path])
    assert run.notices == [] and run.name == "run" and not run.finished
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    assert [batch.step for batch in run.batches] == [1, 3] and run.n_rollouts == 16
    assert list(run.evaluations) == ["before_greedy", "after_greedy"]
    rollout = run.batches[0].rollouts[1]
    assert [segment.turn for segment in rollout.segments] == [0, -1, 1, -1, 2, -1]
    assert rollout.n_process == 2 and rollout.update is not None and len(rollout.update.ratio) == 3
    assert rollout.n_policy_tokens == len(rollout.update.log_ratio) < rollout.n_tokens


def test_files_cut_off_in_the_middle(tmp_path: Path) -> None:
    """Half a last line, even half a character, costs that line alone, and each file's loss is counted."""
    path = write_run(tmp_path / "run", batches=1)
    for file in (path / "metrics.jsonl", path / "rollouts" / "step_000000.jsonl"):
        file.write_bytes(file.read_bytes()[:-20] + "é".encode()[:1])
    (path / "rollouts" / "updates_000000.jsonl").write_text("[1, 2]\nnull\n{}\n")
    (run,) = read_runs([path])
    assert len(run.metrics) == 1 and run.n_rollouts == 7
    assert run.batches[0].rollouts[0].update is None
    assert run.notices == [
        "run/metrics.jsonl: 1 line could not be read and is left out",
        "rollouts/step_000000.jsonl: 1 line could not be read and is left out",
        "rollouts/updates_000000.jsonl: 3 lines could not be read and are left out",
    ]


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    """A configuration alone is a run; so are metrics alone, with a word on what that means."""
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "metrics.jsonl").write_text('{"step": 1, "reward": NaN}\n')
    begun, bare = read_runs([tmp_path / "begun", tmp_path / "bare"])
    assert begun.n_rollouts == 0 and begun.notices == []
    assert "config.yaml is missing" in bare.notices[0]


def test_texts_of_tokens(tmp_path: Path) -> None:
    """Each token of the run's tokenizer has its text, special ones included; a run without a tokenizer has none."""
    path = write_run(tmp_path / "run", batches=1)
    assert read_runs([path])[0].token_texts is None
    texts = save_tokenizer(path)
    (run,) = read_runs([path])
    assert run.token_texts is not None and run.notices == []
    assert {token: run.token_texts(token) for token in texts} == texts


def test_a_tokenizer_cut_off(tmp_path: Path) -> None:
    """One that cannot be read is said, and the one of the warm start is used; without that tokens have no texts."""
    path = write_run(tmp_path / "run", batches=1)
    texts = save_tokenizer(path)
    shutil.copytree(path / "model", path / "warm_start")
    (path / "model" / "tokenizer.json").write_text('{"version": "1.0", "trunc')
    (run,) = read_runs([path])
    assert run.token_texts is not None
    assert {token: run.token_texts(token) for token in texts} == texts
    (notice,) = run.notices
    assert notice.startswith("model/tokenizer.json cannot be read: ")
    shutil.rmtree(path / "warm_start")
    (run,) = read_runs([path])
    assert run.token_texts is None and run.notices == [notice]


def test_several_processes_are_one_batch(tmp_path: Path) -> None:
    """The files of all ranks of a step are one batch in rank order, each with its own updates."""
    path = write_run(tmp_path / "run", batches=1, questions=1)
    lines = (path / "rollouts" / "step_000000.jsonl").read_text().splitlines(keepends=True)
    updates = (path / "rollouts" / "updates_000000.jsonl").read_text().splitlines()
    for rank, rows in ((10, slice(2, 4)), (9, slice(0, 2))):
        file = path / "rollouts" / f"step_000000.rank{rank}.jsonl"
        file.write_text("".join(lines[rows]))
        own = [json.dumps(json.loads(line) | {"row": row}) for row, line in enumerate(updates[rows])]
        updates_file(file).write_text("\n".join(own))
    (whole,) = read_runs([path])[0].batches
    (path / "rollouts" / "step_000000.jsonl").unlink()
    (path / "rollouts" / "updates_000000.jsonl").unlink()
    (ranked,) = read_runs([path])[0].batches
    assert ranked.rollouts == whole.rollouts[:4]
    assert [rollout.update.ratio for rollout in ranked.rollouts if rollout.update] == [
        rollout.update.ratio for rollout in whole.rollouts[:4] if rollout.update
    ]


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    """Runs are named by as much of their path as it takes; the same run twice is refused, and so is no run at all."""
    first, second = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")
    assert [run.name for run in read_runs([first, second])] == ["a/run", "b/run"]
    with pytest.raises(DataError, match="given twice"):
        read_runs([first, first])
    with pytest.raises(DataError, match="holds no run"):
        read_runs([tmp_path])


def test_an_unreadable_configuration_is_said(tmp_path: Path) -> None:
    """A configuration cut off mid-write costs no more than itself."""
    path = write_run(tmp_path / "run", batches=1)
    (path / "config.yaml").write_text("hops: [1, 2")
    (run,) = read_runs([path])
    assert run.config == {} and "config.yaml cannot be read" in run.notices[0]


def test_numbers_that_are_none(tmp_path: Path) -> None:
    """NaN, null for it and infinity are numbers that are missing: the rollout is read, and known not to be finite."""
    path = write_run(tmp_path / "run", batches=1, questions=1)
    file = path / "rollouts" / "step_000000.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    records[0]["reward"], records[1]["gain"], records[2]["advantage"] = float("nan"), [None, 1.0], [float("inf")] * 4
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    (run,) = read_runs([path])
    add_terms(run)
    rollouts = run.batches[0].rollouts
    assert [rollout.finite for rollout in rollouts] == [False, False, False, True]
    assert math.isnan(rollouts[1].gain[0]) and [rollout.terms is None for rollout in rollouts][:3] == [True] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"gain": ["high"]},
        {"advantage": "0.5 0.5"},
        {"advantage": None},
        {"segments": [{"turn": "one", "text": "", "ids": []}]},
        {"segments": [{"turn": 0, "text": "", "ids": ["a"]}]},
        {"group": "first"},
        {"reward": {"a": 1}},
        {"group": 1e999},
        {"calls": [{"query": "q"}]},
    ],
)
def test_values_of_another_kind_cost_their_line(tmp_path: Path, change: dict[str, object]) -> None:
    """Text where a number belongs makes a line unreadable; the lines after it keep their place and their updates."""
    path = write_run(tmp_path / "run", batches=1, questions=1)
    (whole,) = read_runs([path])
    file = path / "rollouts" / "step_000000.jsonl"
    first, second, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, json.dumps(json.loads(second) | change), *rest]))
    (run,) = read_runs([path])
    assert run.notices == ["rollouts/step_000000.jsonl: 1 line could not be read and is left out"]
    assert [rollout.line for rollout in run.batches[0].rollouts] == [1, 3, 4]
    assert [r.update for r in run.batches[0].rollouts] == [whole.batches[0].rollouts[i].update for i in (0, 2, 3)]


def test_metrics_and_evaluations_of_another_kind(tmp_path: Path) -> None:
    """A step that is no number and an outcome whose values are of another kind cost a line each."""
    path = write_run(tmp_path / "run", batches=1)
    write_evaluation(path, "eval_greedy", [True, False])
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": Infinity}\n{"step": "two"}\n[1]\n' + "[" * 9999 + "\n")
    file = path / "eval" / "eval_greedy.jsonl"
    right, wrong = file.read_text().splitlines()
    changes: list[dict[str, object]] = [{"correct": "yes"}, {"answer": [1]}, {"searches": None}, {"text": None}]
    file.write_text("\n".join([right, *(json.dumps(json.loads(wrong) | change) for change in changes)]))
    (run,) = read_runs([path])
    assert len(run.metrics) == 2 and len(run.evaluations["eval_greedy"]) == 1
    assert [notice.split(":")[1][:8] for notice in run.notices] == [" 4 lines"] * 2


def test_an_environment_owns_the_prompt(tmp_path: Path) -> None:
    """Records without prompt, answer or name, as an environment that owns its data leaves them, are rollouts; what
    judges their turns is called by its name, and a reward above 0 is what is right."""
    path = write_run(tmp_path / "run", batches=1, process_signal="reward_model")
    file = path / "rollouts" / "step_000000.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        for name in ("prompt", "answer", "id", "likelihood"):
            del record[name]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    (run,) = read_runs([path])
    first, second = run.batches[0].rollouts[:2]
    assert run.notices == [] and (first.question, first.answer, first.id) == ("", [], "")
    assert run.signal == "step reward" and (first.correct, second.correct) == (True, False)
    (run.path / "config.yaml").write_text("")
    assert read_runs([path])[0].signal == "turn signal"


@pytest.mark.parametrize("text", ["a: &a [*a]", "when: 2024-13-45", "- 1", "1: {2: 3}"])
def test_configurations_of_every_kind(tmp_path: Path, text: str) -> None:
    """A value that holds itself, a date that is none, a list, keys that are numbers: none of them stops the reading."""
    path = write_run(tmp_path / "run", batches=1)
    (path / "config.yaml").write_text(text)
    (run,) = read_runs([path])
    assert all(isinstance(key, str) for key in run.config)


def test_chat_prompts_and_foreign_records(tmp_path: Path) -> None:
    """A chat prompt is its last message, a plain answer is one alias, and a rollout of TRL's own tool loop, which logs
    no ending, is correct when its reward is positive."""
    path = write_run(tmp_path / "run", batches=1, questions=1, rollouts=2, updates=False)
    file = path / "rollouts" / "step_000000.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        for key in ("termination", "reason", "prediction", "calls"):
            del record[key]
        record |= {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "why?"}], "answer": "x"}
    file.write_text(os.linesep.join(map(json.dumps, records)))
    first, second = read_runs([path])[0].batches[0].rollouts
    assert first.question == "why?" and first.answer == ["x"] and first.termination is None
    assert (first.correct, second.correct) == (True, False)
