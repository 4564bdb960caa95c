"""Run directories in every state are read, and what is missing is said."""

from __future__ import annotations

import json
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
    """A reward of NaN gets no terms and stops nothing; a null among the numbers of a turn makes the line unreadable."""
    path = write_run(tmp_path / "run", batches=1, questions=1)
    file = path / "rollouts" / "step_000000.jsonl"
    first, second, *rest = file.read_text().splitlines(keepends=True)
    nan, null = json.loads(first) | {"reward": float("nan")}, json.loads(second) | {"gain": [None]}
    file.write_text("".join([json.dumps(nan) + "\n", json.dumps(null) + "\n", *rest]))
    (run,) = read_runs([path])
    add_terms(run)
    assert run.n_rollouts == 3 and run.batches[0].rollouts[0].terms is None
    assert "1 line could not be read" in run.notices[0]


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
