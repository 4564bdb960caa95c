"""The files by which others install, cite and check the project say the same and are well formed."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import a2tgpo
from a2tgpo.cli import main

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_one_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The package's, which `--version` prints, the citation's and the newest section of the changelog's."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and a2tgpo.__version__ == citation["version"] == newest[1]
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"a2tgpo {a2tgpo.__version__}\n"


def test_the_citation_has_what_its_format_asks_for() -> None:
    """Required keys of the Citation File Format 1.2.0, authors by name, and the paper."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys() and "2605.06200" in paper["url"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_well_formed(path: Path) -> None:
    """It has a trigger, rights no wider than stated, and jobs whose steps use an action or run a script there is."""
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow[True] and "permissions" in workflow and workflow["jobs"]  # YAML reads `on` as true
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] and job["steps"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@[\w./-]+", step["uses"])
            for script in re.findall(r"\.ci/\w+", step.get("run", "")):
                assert os.access(ROOT / script, os.X_OK), script


def test_ci_covers_the_pythons_that_the_metadata_names() -> None:
    """.ci/run over 3.11 to 3.13, and .ci/package."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert jobs["ci"]["strategy"]["matrix"]["python"] == classifiers == ["3.11", "3.12", "3.13"]
    runs = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    assert ".ci/run" in runs["ci"] and ".ci/package" in runs["package"]


def test_the_image_holds_what_the_wheel_is_made_of() -> None:
    """The whole checkout is copied but for what .dockerignore names, which the build does not read."""
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert "COPY . .\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert not {"src", "README.md", "LICENSE", "constraints", *wheel["wheel"]["force-include"]} & {*left_out}


def test_the_pre_commit_hooks_run_what_lint_runs() -> None:
    """Each hook has what pre-commit asks of a local one, and its command is a line of `make lint`."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("lint:")[2].partition("\n\n")[0]
    assert repository["repo"] == "local" and len(repository["hooks"]) == 3
    for hook in repository["hooks"]:
        assert {"id", "name", "entry", "language"} <= hook.keys()
        assert hook["entry"].replace(".venv/bin", "$(BIN)") in lint
