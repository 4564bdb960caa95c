"""An evaluation samples as the recipe says the policy is trained, or greedily; its table says the same on the terminal
and in the file, within 80 columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import GenerationConfig

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.evaluate.questions import Summary
from a2tgpo.evaluate.statistics import Proportion
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.run.held_out import as_markdown, as_table, sampling_config, summary_rows
from a2tgpo.run.recipe_file import load_recipe
from tests.integrations.parts import scripted_trainer
from tests.run.parts import write_recipe

SAMPLING = {"temperature": 0.7, "top_p": 0.8, "top_k": 5, "min_p": 0.1}
SETTINGS: dict[str, Any] = SAMPLING | {"repetition_penalty": 1.3, "generation_kwargs": {"typical_p": 0.9}}


def both_ways(folder: Path) -> tuple[SearchAgent, GenerationConfig, GenerationConfig]:
    """The agent, and how it samples and answers greedily in a recipe with `SETTINGS`."""
    agent = SearchAgent(build_tokenizer(), lambda queries: [[] for _ in queries], RolloutLimits())
    config = load_recipe(str(write_recipe(folder / "recipe.yaml", folder, **SETTINGS)))
    return agent, sampling_config(agent, config, "sampled"), sampling_config(agent, config, "greedy")


def test_the_recipe_s_sampling_arrives(tmp_path: Path) -> None:
    """Every sampling parameter of the recipe, those of `generation_kwargs` among them, is the evaluation's, and the
    trainer that is given the same samples its rollouts with the same."""
    agent, sampled, _ = both_ways(tmp_path)
    assert sampled.do_sample is True
    wanted = SAMPLING | {"repetition_penalty": 1.3, "typical_p": 0.9}
    assert {name: getattr(sampled, name) for name in wanted} == wanted
    assert sampled.pad_token_id == agent.tokenizer.pad_token_id
    trained = scripted_trainer(tmp_path, [["x"]], **SETTINGS).generation_config
    assert trained.do_sample is True
    assert {name: getattr(trained, name) for name in wanted} == wanted


def test_greedy_takes_the_likeliest_token(tmp_path: Path) -> None:
    """Greedy answers keep the repetition penalty, which changes what is likeliest, and no parameter of sampling."""
    agent, _, greedy = both_ways(tmp_path)
    assert greedy.do_sample is False and greedy.repetition_penalty == 1.3
    assert greedy.pad_token_id == agent.tokenizer.pad_token_id
    unset = GenerationConfig()
    assert all(getattr(greedy, name) == getattr(unset, name) for name in (*SAMPLING, "typical_p"))


def summary(hits: int, by_hops: dict[int, tuple[int, int]]) -> Summary:
    """`hits` of 100, and shares by hops."""
    return Summary(
        measure="exact_match",
        correct=Proportion(hits, 100),
        reward=None,
        by_hops={hops: Proportion(*share) for hops, share in by_hops.items()},
        format_rate=0.9876,
        searches=2.346,
        terminations={},
    )


SUMMARIES = {
    "before, sampled": summary(0, {1: (0, 40), 2: (0, 60)}),
    "after, sampled": summary(50, {2: (25, 50), 3: (50, 50)}),
}


def test_rows() -> None:
    """One row a summary and one column a hop count that any has; a cell is the share and its interval, or empty."""
    header, rows = summary_rows(SUMMARIES)
    assert header == ["", "exact match", "1 hop", "2 hops", "3 hops", "searches", "format"]
    assert rows[0] == [
        *("before, sampled", "0.000 [0.00, 0.04]", "0.000 [0.00, 0.09]", "0.000 [0.00, 0.06]", ""),
        *("2.35", "0.988"),
    ]
    assert rows[1][1:5] == ["0.500 [0.40, 0.60]", "", "0.500 [0.37, 0.63]", "1.000 [0.93, 1.00]"]


def test_markdown() -> None:
    """The file's table has a header, a rule and the rows, all with the same number of cells."""
    lines = as_markdown(SUMMARIES).splitlines()
    last = "| after, sampled | 0.500 [0.40, 0.60] |  | 0.500 [0.37, 0.63] | 1.000 [0.93, 1.00] | 2.35 | 0.988 |"
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {8}
    assert lines[0].startswith("|  | exact match | 1 hop |")
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[-1] == last


def test_it_fits_a_terminal() -> None:
    """With three hop counts, 80 columns show every number whole, each interval below its share."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table(SUMMARIES, "title"))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    for cell in ("before, sampled", "0.500", "0.40–0.60", "0.93–1.00", "exact match", "searches", "format"):
        assert cell in text
