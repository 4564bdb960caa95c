"""The pages of the documentation hold together as GitHub shows them, and what they show is so."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from pathlib import Path

import pytest
import torch

from a2tgpo.core import TurnBatch, TurnGroupCredit, information_gain

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*/**/README.md"))]
PAGES = [page for page in PAGES if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", unicodedata.normalize("NFC", heading)).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(next(name for name in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if name not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file of the repository, every anchor a heading there."""
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def test_the_repository_is_named_once() -> None:
    """What stands in pyproject.toml stands wherever a page or a setting names the repository."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    files = [*PAGES, ROOT / "pyproject.toml", *ROOT.glob(".github/**/*.yml"), ROOT / "CITATION.cff"]
    named = {url for path in files for url in re.findall(r"https://github\.com/[\w.-]+/a2tgpo\b", path.read_text())}
    assert named == {urls["Repository"]}


def numbers(row: str) -> list[float | None]:
    """Return the cells of a table's row behind the first, None for an empty one."""
    cells = [cell.strip().replace("−", "-") for cell in row.strip("|\n").split("|")[1:]]
    return [float(cell) if cell else None for cell in cells]


def test_the_worked_turn_group() -> None:
    """Gains, normalised gains, advantages and clip scales of docs/concepts.md are the core's, to the digits shown."""
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    rows = {name: re.findall(rf"^\| {name} \|(?:.*)$", text, flags=re.MULTILINE) for name in "abcd"}
    given = [numbers(rows[name][0]) for name in "abcd"]
    v = torch.tensor([[value or 0.0 for value in row[:3]] for row in given], dtype=torch.float64)
    process = torch.tensor([[True, True, False]] * 3 + [[True, False, False]])
    gain = torch.nn.functional.pad(information_gain(v, process[:, :2]), (0, 1))
    batch = TurnBatch(
        gain=gain,
        is_process=process,
        outcome=torch.tensor([row[3] or 0.0 for row in given], dtype=torch.float64),
        group=torch.zeros(4, dtype=torch.long),
        n_turns=torch.tensor([3, 3, 3, 2]),
    )
    credit = TurnGroupCredit()(batch)
    for number, name in enumerate("abcd"):
        depths = 2 if name != "d" else 1
        assert given[number][4 : 4 + depths] == pytest.approx(gain[number, :depths].tolist(), abs=1e-9)
        shown = numbers(rows[name][1])
        answer = credit.advantage[number, depths].item()
        expected: list[float | None] = []
        for values in (credit.normalized_gain[number], credit.advantage[number], credit.clip_scale[number]):
            expected += [*values[:depths].tolist(), *[None] * (2 - depths)]
        expected[2:2] = [batch.reward()[number].item()]
        expected[5:5] = [answer]
        assert len(shown) == len(expected)
        for there, core in zip(shown, expected, strict=True):
            assert (there is None) == (core is None)
            assert there is None or there == pytest.approx(core, abs=6e-4)
    spread = gain[:, 0].std(correction=0).item(), gain[:3, 1].std(correction=0).item()
    assert f"mean .020, σ {spread[0]:.4f}".replace("0.", ".") in text
    assert f"mean .430, σ {spread[1]:.4f}".replace("0.", ".") in text


def test_the_worked_turn_group_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    """The snippet beside the table prints the table's advantages."""
    (script,) = re.findall(r"```python\n(.*?)```", (DOCS / "concepts.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(script, "concepts.md", "exec"), {})
    assert "2.37" in (printed := capsys.readouterr().out) and "-2.30" in printed
