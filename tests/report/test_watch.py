"""`--watch` serves the page on this machine alone and follows the run."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.errors import DataError, RecipeError
from a2tgpo.report.page import render_page
from a2tgpo.report.run_data import read_runs
from a2tgpo.report.watch import WatchedPage, open_server
from tests.report.runs import write_run
from tests.report.test_command import report


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A run and the port its page is served at."""
    run = write_run(tmp_path / "run", batches=1)
    server = open_server(WatchedPage([run], lambda stamp: render_page(read_runs([run]), 2000, stamp=stamp)), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield run, server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_only_this_machine_reads_the_page(served: tuple[Path, int]) -> None:
    """It listens on the loopback interface, and refuses requests that were sent to another name, as a page of a
    stranger's would have them sent; there are two addresses and no more."""
    _, port = served
    assert get(port, "/")[0] == 200 and get(port, "/", Host="localhost")[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[::1"):
        assert get(port, "/", Host=host)[0] in (400, 403), host
    assert get(port, "/../etc/passwd")[0] == 404 and get(port, "/stamp")[0] == 200
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=b"x")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request)


def test_the_page_follows_the_run(served: tuple[Path, int], browser: Any) -> None:
    """While the run goes on the page loads itself again, with the view, the filters and the text read; it asks no
    other address."""
    run, port = served
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"http://127.0.0.1:{port}/#rollout/0/1/2")
    page.wait_for_selector("body[data-milliseconds]")
    page.get_by_role("button", name="correct", exact=True).click()
    page.wait_for_selector('#count:text-is("4 of 8 rollouts")')
    stamp = page.locator("body").get_attribute("data-stamp")
    write_run(run.parent / "more", batches=2)
    (run.parent / "more" / "rollouts" / "step_000002.jsonl").rename(run / "rollouts" / "step_000002.jsonl")
    page.wait_for_selector('#count:text-is("8 of 16 rollouts")', timeout=20_000)
    assert page.locator("body").get_attribute("data-stamp") != stamp
    assert page.evaluate("location.hash") == "#rollout/0/1/2"
    assert {url.split("#")[0].removeprefix(f"http://127.0.0.1:{port}") for url in requests} <= {"/", "/stamp"}
    page.close()


def test_a_run_that_cannot_be_read_keeps_the_page(tmp_path: Path) -> None:
    """The page of before stays where a run is gone; one that was never there is an error at once."""
    run = write_run(tmp_path / "run", batches=1)

    def render(stamp: str) -> str:
        return f"{len(read_runs([run]))} {stamp}"

    watched = WatchedPage([run], render)
    first = watched.page()
    assert watched.page() == first
    run.rename(tmp_path / "gone")
    assert watched.page() == first
    with pytest.raises(DataError):
        WatchedPage([run], render).page()


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    """A file or another format beside --watch, and a port that cannot be had, are refused by name."""
    run = str(write_run(tmp_path / "run", batches=1))
    for flags in (["-o", "x.html"], ["--format", "csv"]):
        with pytest.raises(RecipeError, match="--watch serves the page"):
            report(run, *flags, "--watch")
    with pytest.raises(RecipeError, match="--watch 99999"):
        report(run, "--watch", "99999")


def test_it_says_where_and_ends_with_ctrl_c(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is printed, and Ctrl-C ends the command with status 0."""

    def interrupted(*_: object, **__: object) -> Callable[[], None]:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    assert report(str(write_run(tmp_path / "run", batches=1)), "--watch") == 0
    assert "http://127.0.0.1:" in capsys.readouterr().out
