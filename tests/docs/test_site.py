"""The documentation site builds without a warning, and its pages ask for nothing that is not there."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from a2tgpo.evaluate.eval_config import EvalConfig
from a2tgpo.integrations.trl.config import A2TGPOConfig
from a2tgpo.run.recipe import Recipe

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parents[2]
_IMPORT = re.compile(r"^from a2tgpo[\w.]* import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)


class Page(HTMLParser):
    """Collect what a page links to, what it loads, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("link", "script", "img", "iframe", "source"):
            self.loaded += [given[name] for name in ("href", "src") if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a missing page, file, anchor or docstring's object ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site; 404.html stands in any folder and so links from the root."""
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_links_within_the_site(site: Path, pages: dict[Path, Page]) -> None:
    """Every link that stays within the site, and everything a page loads, is there, the anchor too."""
    assert len(pages) > 30
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file() and there.is_relative_to(site.resolve()), f"{path.relative_to(site)}: {link}"
            if parts.fragment and there.suffix == ".html" and parts.fragment != "__skip":
                assert unquote(parts.fragment) in pages[there].anchors, f"{path.relative_to(site)}: {link}"


def test_no_page_loads_from_elsewhere(pages: dict[Path, Page]) -> None:
    """Scripts, styles, fonts and pictures are the site's own."""
    assert [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc] == []


@pytest.mark.parametrize(("name", "page"), [("core", "core"), ("signals", "signals"), ("environments", "environments")])
def test_the_reference_has_what_a_package_exports(name: str, page: str, site: Path, pages: dict[Path, Page]) -> None:
    """Every name of `__all__` has its entry."""
    anchors = pages[site / "api" / page / "index.html"].anchors
    for exported in importlib.import_module(f"a2tgpo.{name}").__all__:
        assert f"a2tgpo.{name}.{exported}" in anchors


def test_the_reference_has_what_the_pages_import(site: Path, pages: dict[Path, Page]) -> None:
    """Every name that a page, the README or an example imports from the package has its entry; the command line alone
    is documented elsewhere."""
    anchors = {
        anchor.rpartition(".")[2] for path, page in pages.items() if "api" in path.parts for anchor in page.anchors
    }
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    imported = {
        name
        for path in texts
        for several, one in _IMPORT.findall(path.read_text(encoding="utf-8"))
        for name in re.split(r"[,\s]+", several or one.split("#")[0])
        if name
    }
    assert "EnvironmentPool" in imported and sorted(imported - anchors) == []


def test_the_reference_shows_shapes_units_errors_and_source(site: Path) -> None:
    """An entry has the signature with shapes, the arguments, what is raised and a link to the paper's name."""
    text = (site / "api" / "core" / "index.html").read_text(encoding="utf-8")
    entry = text.partition('id="a2tgpo.core.information_gain"')[2].partition('id="a2tgpo.core.normalize')[0]
    for part in ("B T", "likelihood", "Raises", "ValueError", "2605.06200"):
        assert part in entry, part


def test_the_reference_lists_every_key(site: Path) -> None:
    """Keys that are ours and flags of an evaluation stand in a table, with their meaning."""
    text = (site / "api" / "keys" / "index.html").read_text(encoding="utf-8")
    ours = {*A2TGPOConfig.__annotations__, *(field.name for part in (Recipe, EvalConfig) for field in fields(part))}
    assert [key for key in sorted(ours) if f"<td><code>{key}</code></td>" not in text] == []
    assert "Width β of the adaptive clip scale" in text
