"""Runs of environments in a real browser: what they call success, or give as reward, takes the place of exact match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import Watched
from tests.report.runs import Spoken, write_episodes, write_evaluation, write_run

Open = Callable[..., Watched]


def play(path: Path, **changes: Any) -> Path:
    """A run of an environment that knows no answer, begins with a map and ends every episode; `changes` to records."""
    spoken = Spoken([("<move> down </move>", "<result>\nF[F]\n</result>")], "<move> right </move>")
    run = write_run(path, batches=1, say=lambda *_: spoken, process_signal="environment")
    file = run / "rollouts" / "step_000000.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for record in records:
        del record["likelihood"], record["hops"]
        calls = [{"query": query, "passage_ids": [], "tool": "move"} for query in ("down", "right")]
        record |= {"answer": None, "prediction": None, "reason": "", "calls": calls, "call_seconds": [0.5, 0.25]}
        record |= {"termination": "environment_done", "success": record["reward"] > 0, "observed": "[S]F\nFG"} | changes
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return run


def test_an_episode_reads_like_one(tmp_path: Path, open_page: Open) -> None:
    """It begins with what the environment said first, moves are cards with their seconds, and the environment's word
    stands wherever an answer would: in the facts, the list, the filters and the figures. An ending by the environment
    is no fault of anybody's."""
    shown = open_page(play(tmp_path / "run"), address="#rollout/0/1/0")
    assert shown.texts(".conversation > section:first-child .text") == ["[S]F\nFG"]
    assert shown.texts(".is-call header b") == ["move", "move"] and "0.50 s" in shown.texts(".is-call header")[0]
    facts = dict(zip(shown.texts(".facts dt"), shown.texts(".facts dd"), strict=True))
    assert (
        facts["outcome"] == "✓ solved" and facts["last call"] == "move right" and facts["ended"] == "environment done"
    )
    assert not {"gold answer", "answered"} & facts.keys()
    assert set(shown.texts("#list .said")) == {"move right"}
    assert shown.texts("[aria-label=Filters] button") == ["solved", "not solved", "clipped"]
    shown.page.get_by_role("button", name="not solved").click()
    shown.page.wait_for_selector('#count:text-is("4 of 8 rollouts")')
    shown.go("#group/0/1/0/1")
    assert set(shown.texts(".card header span")) == {"✓ solved", "✗ not solved"}
    shown.go("#run")
    assert "Episodes solved in training" in shown.texts("h3") and "Format rate" not in shown.texts("h3")
    assert not any("ended" in notice for notice in shown.texts("[aria-label=Notices] li"))
    assert "are solved; this one is" in shown.texts(".opening p")[0]


def test_a_group_whose_turns_nobody_judged(tmp_path: Path, open_page: Open) -> None:
    """Where a method reads outcomes alone, the cards of a question's rollouts hold what was said and read at a depth,
    and no row of dashes."""
    run = play(tmp_path / "run", gain=None, normalized_gain=None)
    shown = open_page(run, address="#group/0/1/0/1")
    assert "No turn was judged by itself" in shown.texts(".group")[0]
    assert shown.page.locator(".card dl, .strip-plot").count() == 0
    assert set(shown.texts(".card .result-text")) == {"<result>\nF[F]\n</result>"}


def test_a_failed_environment_is_seen(tmp_path: Path, open_page: Open) -> None:
    """A rollout that the environment failed says why, is marked in the list and is not called solved."""
    run = play(tmp_path / "run", termination="tool_failed", reason="no <b>board</b>", valid=False, success=None)
    shown = open_page(run, address="#rollout/0/1/0")
    facts = dict(zip(shown.texts(".facts dt"), shown.texts(".facts dd"), strict=True))
    assert facts["ended"] == "tool failed: no <b>board</b>" and facts["trained on"].startswith("no")
    assert set(shown.texts("#list .mark-broken")) == {"!"}
    shown.go("#run")
    assert any("the tool failed in 8 of 8" in notice for notice in shown.texts("[aria-label=Notices] .level-bad"))


@pytest.mark.parametrize(("solved", "name"), [(True, "success"), (False, "reward")])
def test_episodes_are_told_by_success_or_reward(tmp_path: Path, open_page: Open, solved: bool, name: str) -> None:
    """Held-out episodes have their success or mean reward in the table of runs, in that of evaluations and in what
    changed between two, and nowhere an exact match or a format that nobody was asked to keep. Of four episodes two earn
    1 more: +0.5, by t = √3 with 3 degrees of freedom p = 0.182."""
    run = play(tmp_path / "run")
    write_episodes(run, "before_greedy", [0.0, 0.0, 1.0, 0.0], solved=solved)
    write_episodes(run, "after_greedy", [1.0, 0.0, 1.0, 1.0], solved=solved)
    shown = open_page(run)
    assert f"held-out {name}" in shown.texts("table[aria-label=Runs] th")
    assert "0.250 → 0.750" in shown.texts("table[aria-label=Runs] tbody tr")[0]
    shown.go("#evaluation")
    heads = shown.texts("table[aria-label=Evaluations] thead th")
    assert heads == ["evaluation", "episodes", *(["success"] if solved else []), "reward", "calls"]
    assert shown.texts(".flips")[0].startswith(f"+0.500 {name} from before, greedy to after, greedy on 4 episodes")
    assert "p = 0.1817" in shown.texts(".flips")[0]
    kinds = ["failed → solved 2", "solved → failed 0", "both solved 1", "both failed 1"]
    assert shown.texts("[aria-label=Filters] button")[1:] == (kinds if solved else ["better 2", "worse 0", "equal 2"])
    assert shown.texts(".asked-head span") == ["episode", "before, greedy", "after, greedy"]
    assert shown.texts(".asked summary")[0].split("\n")[0].startswith("Play. 0")
    before, after = shown.texts(".asked:first-of-type .verdict")
    assert (before, after) == (
        ("✗ failed · last call down · reward 0", "✓ solved · last call down · reward 1.00")
        if solved
        else ("environment done · last call down · reward 0", "environment done · last call down · reward 1.00")
    )
    assert "exact match" not in shown.texts("main")[0]
    shown.page.locator("summary").first.click()
    shown.page.wait_for_selector(".columns .part")
    assert shown.texts(".columns > div:first-child .part header b") == ["move", "Result"]


def test_evaluations_of_different_measures(tmp_path: Path, open_page: Open) -> None:
    """A run of questions beside one of episodes: each has its own column, and no difference is told between them."""
    asked, played = play(tmp_path / "asked"), play(tmp_path / "played")
    write_evaluation(asked, "after_greedy", [True, False])
    write_episodes(played, "after_greedy", [0.5, 0.0], solved=False)
    shown = open_page(asked, played, address="#evaluation/0.after_greedy/1.after_greedy")
    heads = shown.texts("table[aria-label=Evaluations] thead th")
    assert heads[:3] == ["evaluation", "episodes", "exact match"] and "reward" in heads
    assert shown.page.locator(".flips").count() == 0
    (asked / "eval" / "after_greedy.jsonl").write_text(
        (asked / "eval" / "after_greedy.jsonl").read_text(encoding="utf-8").replace('"made"', '"others"'),
        encoding="utf-8",
    )
    shown = open_page(asked, played, address="#evaluation/0.after_greedy/1.after_greedy")
    assert "no question in common" in shown.texts("#questions")[0]
