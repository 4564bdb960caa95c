"""A headless Chromium, and pages opened in it under watch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.report.page import render_page
from a2tgpo.report.run_data import read_runs
from a2tgpo.report.terms import add_terms

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Watched:
    """A page with everything it asked for and complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, address: str, lands: str | None = None) -> None:
        """Follow a link of the page itself and wait until what it leads to is drawn."""
        self.page.evaluate("hash => { location.hash = hash }", address)
        self.ready(lands or address)

    def ready(self, address: str) -> None:
        self.page.wait_for_selector(f'body[data-ready="{address}"]', timeout=10_000)

    def press(self, key: str, address: str) -> None:
        self.page.keyboard.press(key)
        self.ready(address)

    def texts(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_inner_texts())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, where there is one. Its driver holds an event loop, which must not outlast the file's tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'a2tgpo[dev]'")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs a Chromium on the PATH, such as Debian's package chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Render runs and open the page at an address. At the end: no complaint, and no request but for the file."""
    opened: list[Watched] = []
    context = browser.new_context(viewport={"width": 1366, "height": 768})

    def open_runs(*runs: Path, address: str = "", max_rollouts: int = 2000) -> Watched:
        data = read_runs(list(runs))
        for run in data:
            add_terms(run)
        file = tmp_path / "report.html"
        file.write_text(render_page(data, max_rollouts), encoding="utf-8")
        watched = Watched(context.new_page())
        opened.append(watched)
        watched.page.on("request", lambda request: watched.requests.append(request.url))
        watched.page.on("console", lambda message: watched.complaints.append(message.text))
        watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        watched.page.goto(f"{file.as_uri()}{address}")
        watched.page.wait_for_selector("body[data-milliseconds]", timeout=20_000)
        return watched

    yield open_runs
    for watched in opened:
        assert watched.complaints == []
        assert [url.split("#")[0] for url in watched.requests] == [(tmp_path / "report.html").as_uri()]
    context.close()
