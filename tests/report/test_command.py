"""`a2tgpo report` as a command: its outputs and its errors."""

from __future__ import annotations

import argparse
import base64
import csv
import errno
import gzip
import json
import re
import sys
from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from a2tgpo.errors import RecipeError
from a2tgpo.report.figure_export import write_png
from a2tgpo.report.figures import figures_of
from a2tgpo.report.logged_rollout import Batch
from a2tgpo.report.page import choose
from a2tgpo.report.report_command import add_report_command
from a2tgpo.report.run_data import read_runs
from a2tgpo.report.series import Kind, arms_of
from tests.report.runs import FIGURES, Spoken, save_tokenizer, write_run
from tests.report.test_figures import rollout


def report(*arguments: str) -> int:
    """Parse and run, as the command line does."""
    parser = argparse.ArgumentParser()
    add_report_command(parser.add_subparsers())
    parsed, rest = parser.parse_known_args(["report", *arguments])
    return int(parsed.run(parsed, rest, Console(file=sys.stdout)))


def test_json_and_csv_hold_the_same_points(tmp_path: Path) -> None:
    """Both exports hold every point of every figure, with names of runs in place of indices in the table."""
    runs = [str(write_run(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]
    assert report(*runs, "--format", "json", "-o", str(tmp_path / "r.json")) == 0
    assert report(*runs, "--format", "csv", "-o", str(tmp_path / "r.csv")) == 0
    data = json.loads((tmp_path / "r.json").read_text())
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert data["runs"] == [["a", "b"]]
    assert [figure["id"] for figure in data["figures"]] == FIGURES
    assert len(rows) == sum(len(series["x"]) for figure in data["figures"] for series in figure["series"])
    reward = data["figures"][0]["series"][0]
    first = next(row for row in rows if row["figure"] == "reward")
    assert first["runs"] == "a (2 seeds)" and float(first["y"]) == reward["y"][0]


def test_a_picture_for_each_figure(tmp_path: Path) -> None:
    """One PNG a figure of every kind into a folder, and one a recipe of the matrix."""
    pytest.importorskip("matplotlib")
    arms = arms_of(read_runs([write_run(tmp_path / name, beta=beta) for beta, name in enumerate("ab")]))
    figures = [
        figure
        for figure in figures_of(arms)
        if figure.id in ("reward", "gain_raw", "similarity", "step_time", "searches")
    ]
    assert {figure.kind for figure in figures} == set(get_args(Kind))
    write_png(tmp_path / "png", figures, arms)
    names = sorted(file.stem for file in (tmp_path / "png").glob("*.png"))
    assert names == ["gain_raw", "reward", "searches", "similarity-1", "similarity-2", "step_time"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "png").iterdir())


def test_what_it_could_not_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notices reach the console, and the page is written nevertheless, whatever YAML made of the recipe."""
    run = write_run(tmp_path / "run", run_name=date(2026, 1, 1))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "rew')
    assert report(str(run), "-o", str(tmp_path / "r.html")) == 0
    said = capsys.readouterr().out
    assert "run/metrics.jsonl: 1 line could not be read" in said and "r.html" in said


def test_refusals(tmp_path: Path) -> None:
    """An argument it does not know, and a limit that leaves nothing, are refused by name."""
    run = str(write_run(tmp_path / "run"))
    with pytest.raises(RecipeError, match="--beta 1"):
        report(run, "--beta", "1")
    with pytest.raises(RecipeError, match="--max_rollouts 0"):
        report(run, "--max_rollouts", "0")


def test_an_output_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The folder is made. What cannot be written is one sentence: a folder in place of the file, a file in place of a
    folder."""
    run = str(write_run(tmp_path / "run"))
    for form in ("html", "json", "csv"):
        assert report(run, "--format", form, "-o", str(tmp_path / "a" / form / "out")) == 0
    (tmp_path / "taken").mkdir()
    for place in (tmp_path / "taken", tmp_path / "a" / "html" / "out" / "below"):
        with pytest.raises(RecipeError, match="cannot be written"):
            report(run, "-o", str(place))


@pytest.mark.parametrize("form", ["html", "json", "csv"])
def test_the_old_report_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """An output that cannot be finished, as on a full disk, leaves the one before as it was."""
    run, output = str(write_run(tmp_path / "run")), tmp_path / "out"
    report(run, "--format", form, "-o", str(output))
    before = output.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("a2tgpo.files.os.fsync", full)
    with pytest.raises(RecipeError, match="cannot be written: No space left on device"):
        report(run, "--format", form, "-o", str(output))
    assert output.read_bytes() == before


def test_a_table_is_no_program(tmp_path: Path) -> None:
    """Names of runs that a spreadsheet would compute are text there; numbers below 0 stay numbers."""
    runs = [str(write_run(tmp_path / name, beta=k)) for k, name in enumerate(("=cmd|calc", "@SUM(1)", "-2+3", "+1"))]
    report(*runs, "--format", "csv", "-o", str(tmp_path / "r.csv"))
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["runs"] for row in rows} == {"'=cmd|calc", "'@SUM(1)", "'-2+3", "'+1"}
    assert min(float(row["y"]) for row in rows if row["y"]) < 0


def test_no_secret_is_in_the_page(tmp_path: Path) -> None:
    """Tokens and passwords of the recipe, of an error text and of a passage are in no block of the page and no export;
    what is no secret stays."""
    secrets = ["hf_abcdefghijklmnopqrst", "hunter2", "sk-proj-0123456789abcdef", "swordfish"]
    recipe = {"hub_token": secrets[0], "retriever_url": f"http://alice:{secrets[1]}@search.example/retrieve"}
    recipe |= {"env": {"WANDB_API_KEY": secrets[3]}, "eos_token": "<|end|>", "max_turn_tokens": 48}
    spoken = Spoken([("ask", f"Authorization: Bearer {secrets[2]}")], "say")
    run = write_run(tmp_path / "run", batches=1, say=lambda *_: spoken, **recipe)
    file = run / "rollouts" / "step_000000.jsonl"
    file.write_text(file.read_text().replace("expected another tag", f"GET http://alice:{secrets[1]}@host failed"))
    for form in ("html", "json", "csv"):
        report(str(run), "--format", form, "-o", str(tmp_path / form))
    page = (tmp_path / "html").read_text()
    blocks = re.findall(r'data-block="[^"]*">([^<]*)<', page)
    texts = [gzip.decompress(base64.b64decode(block)).decode() for block in blocks]
    everything = "\n".join([page, *texts, (tmp_path / "json").read_text(), (tmp_path / "csv").read_text()])
    assert not [secret for secret in secrets if secret in everything]
    assert "search.example/retrieve" in everything and "<|end|>" in everything and '"max_turn_tokens":48' in everything


def test_the_page_is_the_same_page_again(tmp_path: Path) -> None:
    """Two pages of one run differ at most in the minute they were made."""
    run = str(write_run(tmp_path / "run"))
    pages = []
    for name in ("first", "second"):
        report(run, "-o", str(tmp_path / name))
        pages.append((tmp_path / name).read_text())
    assert [line for line in pages[0].splitlines() if 'class="made"' not in line] == [
        line for line in pages[1].splitlines() if 'class="made"' not in line
    ]


def test_the_page_holds_the_texts_of_its_tokens(tmp_path: Path) -> None:
    """A block with the text of each token in its rollouts, and of no other, where the run has a tokenizer."""

    def block() -> dict[str, str] | None:
        assert report(str(run), "-o", str(tmp_path / "r.html")) == 0
        found = re.search(r'data-block="tokens-0">([^<]*)<', (tmp_path / "r.html").read_text())
        return json.loads(gzip.decompress(base64.b64decode(found[1]))) if found else None

    run = write_run(tmp_path / "run", batches=2)
    assert block() is None
    texts = save_tokenizer(run)
    records = [json.loads(line) for file in (run / "rollouts").glob("step_*") for line in file.open(encoding="utf-8")]
    used = {token for record in records for segment in record["segments"] for token in segment["ids"]}
    assert block() == {str(token): texts.get(token, "") for token in used}


@pytest.mark.parametrize(("limit", "steps"), [(100, [1, 2, 3, 4, 5]), (6, [1, 3, 5]), (5, [1, 5]), (4, [1, 5])])
def test_rollouts_shown_are_spread_over_the_run(limit: int, steps: list[int]) -> None:
    """Whole batches, the first and the last among them, as many as the limit admits."""
    batches = [Batch(step, [rollout([], []), rollout([], [])]) for step in range(1, 6)]
    assert [batch.step for batch in choose(batches, limit)] == steps


def test_a_batch_beyond_the_limit_is_cut_between_questions() -> None:
    """Where one batch is too much, its first questions are shown with all their rollouts."""
    batch = Batch(1, [rollout([], [], group=group) for group in (0, 0, 0, 1, 1, 2)])
    (shown,) = choose([batch], 4)
    assert [one.group for one in shown.rollouts] == [0, 0, 0]
    assert choose([], 4) == []
