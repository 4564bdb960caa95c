"""`a2tgpo report` as a command: its outputs and its errors."""

from __future__ import annotations

import argparse
import base64
import csv
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
from a2tgpo.report.figures import SECTIONS, figures_of
from a2tgpo.report.logged_rollout import Batch
from a2tgpo.report.page import choose
from a2tgpo.report.report_command import add_report_command
from a2tgpo.report.run_data import read_runs
from a2tgpo.report.series import Kind, arms_of
from tests.report.runs import save_tokenizer, write_run
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
    assert [figure["id"] for figure in data["figures"]] == [id for ids in SECTIONS.values() for id in ids]
    assert len(rows) == sum(len(series["x"]) for figure in data["figures"] for series in figure["series"])
    reward = data["figures"][0]["series"][0]
    first = next(row for row in rows if row["figure"] == "reward")
    assert first["runs"] == "a (2 seeds)" and float(first["y"]) == reward["y"][0]


def test_a_picture_for_each_figure(tmp_path: Path) -> None:
    """One PNG a figure of every kind into a folder, and one a recipe of the matrix."""
    pytest.importorskip("matplotlib")
    arms = arms_of(read_runs([write_run(tmp_path / name, beta=beta) for beta, name in enumerate("ab")]))
    figures = [figure for figure in figures_of(arms) if figure.id in ("reward", "gain_raw", "similarity", "step_time")]
    assert {figure.kind for figure in figures} == set(get_args(Kind))
    write_png(tmp_path / "png", figures, arms)
    names = sorted(file.stem for file in (tmp_path / "png").glob("*.png"))
    assert names == ["gain_raw", "reward", "similarity-1", "similarity-2", "step_time"]
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
