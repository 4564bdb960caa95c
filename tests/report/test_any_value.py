"""Whatever stands in a run's files, a page is made."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.report.figure_export import write_csv, write_json
from a2tgpo.report.figures import figures_of
from a2tgpo.report.page import render_page
from a2tgpo.report.run_data import read_runs
from a2tgpo.report.series import arms_of
from a2tgpo.report.terms import add_terms
from tests.report.runs import write_evaluation, write_run

KINDS: list[Any] = [
    *(None, True, -1, 0, 1e308, math.nan, math.inf, 10**30, -(10**30)),
    *("", "text", "1e5", "\ud83d", "=cmd|x"),
    *([], [None], ["a"], [1, 2, 3], [[1]], [math.nan] * 3, {}, {"a": 1}),
]


def changed(value: Any, chance: random.Random) -> Any:
    """`value` with one thing in it replaced by something of any kind, or left out."""
    if chance.random() < 0.35 or not isinstance(value, dict | list) or not value:
        return copy.deepcopy(chance.choice(KINDS))
    key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
    if isinstance(value, dict) and chance.random() < 0.2:
        return {name: item for name, item in value.items() if name != key}
    value[key] = changed(value[key], chance)
    return value


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything."""
    run = write_run(tmp_path_factory.mktemp("whole") / "run", batches=2)
    write_evaluation(run, "after_greedy", [True, False])
    return run


@pytest.mark.parametrize("seed", range(60))
def test_a_page_of_any_values(tmp_path: Path, whole: Path, seed: int) -> None:
    """Values of any kind anywhere in metrics, rollouts, updates and evaluations cost at most their lines: the page and
    the exports are written."""
    chance = random.Random(seed)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for file in [run / "metrics.jsonl", *sorted(run.glob("rollouts/*")), *run.glob("eval/*")]:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for _ in range(chance.randint(0, 4)):
            row = chance.randrange(len(rows))
            rows[row] = changed(rows[row], chance)
        file.write_text("\n".join(map(json.dumps, rows)))
    runs = read_runs([run])
    add_terms(runs[0])
    assert "a2tgpo report" in render_page(runs, 2000)
    arms = arms_of(runs)
    write_json(tmp_path / "r.json", figures_of(arms), arms)
    write_csv(tmp_path / "r.csv", figures_of(arms), arms)
