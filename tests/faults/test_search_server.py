"""A search server that fails for a moment, refuses, breaks off, hangs or answers nonsense for one query."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import pytest

from a2tgpo.environments import SearchTool
from a2tgpo.errors import RetrieverError, ToolError
from a2tgpo.retrieval import Hit, Passage
from a2tgpo.retrieval.client import HTTPRetriever
from tests.retrieval.server.parts import Answer, stand_in

GOOD = {"document": {"id": "1", "contents": '"Kelo"\nThe mentor is Bora.'}, "score": 1.0}
KELO = Passage("1", "Kelo", "The mentor is Bora.")


def good(request: dict[str, object]) -> tuple[int, bytes]:
    queries = request["queries"]
    assert isinstance(queries, list)
    return 200, json.dumps({"result": [[GOOD] for _ in queries]}).encode()


def once(bad: Answer) -> Answer:
    """Fail the first request and answer all others."""
    first = iter([bad])
    return lambda request: next(first, good)(request)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the client's pauses in the place of waiting."""
    pauses: list[float] = []
    monkeypatch.setattr("a2tgpo.retrieval.server_request.time", SimpleNamespace(sleep=pauses.append))
    return pauses


MOMENTS: dict[str, Answer] = {
    **{str(status): lambda request, status=status: (status, b"busy") for status in (408, 425, 429, 500, 502, 503, 504)},
    "cut": lambda request: (0, b""),
    "not JSON": lambda request: (200, b"<html>restarting</html>"),
    "empty": lambda request: (200, b""),
    "half": lambda request: (200, good(request)[1][:20]),
    "of another batch": lambda request: (200, json.dumps({"result": []}).encode()),
    "null": lambda request: (200, b'{"result": null}'),
    "a text as score": lambda request: (200, json.dumps({"result": [[{**GOOD, "score": "x"}]] * 2}).encode()),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_bad_moment_is_outlived(moment: str, no_pause: list[float]) -> None:
    """Whatever may be gone a second later costs one more request and no rollout."""
    with stand_in(once(MOMENTS[moment])) as url:
        tool = SearchTool(HTTPRetriever(url, retries=1), timeout_s=20)
        assert tool(["a", "b"]) == [[KELO], [KELO]]
    assert (tool.counts.queries, tool.counts.failed, tool.counts.failed_calls_in_row) == (2, 0, 0)


def test_one_timeout_is_outlived() -> None:
    """One request that hangs is sent again."""
    hang = iter([3.0])

    def answer(request: dict[str, object]) -> tuple[int, bytes]:
        time.sleep(next(hang, 0.0))
        return good(request)

    with stand_in(answer) as url:
        assert SearchTool(HTTPRetriever(url, timeout_s=0.5), timeout_s=10)(["a"]) == [[KELO]]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_the_requests_own_fault_is_not_tried_again(status: int, no_pause: list[float]) -> None:
    """A refusal that another try cannot change raises at once, and says that it will not pass."""
    asked: list[object] = []
    with (
        stand_in(lambda request: (asked.append(request), (status, b"no"))[1]) as url,
        pytest.raises(RetrieverError, match=f"answered {status}: no") as error,
    ):
        HTTPRetriever(url).search(["a"], 1)
    assert not error.value.passing
    assert (len(asked), no_pause) == (1, [])


def test_a_server_that_stays_away(no_pause: list[float]) -> None:
    """The retries are used up with growing pauses; the error says that it may pass, and calls in a row are counted."""
    with stand_in(good) as url:
        pass
    tool = SearchTool(HTTPRetriever(url, retries=4), timeout_s=20)
    for calls in (1, 2):
        results = tool.ask(["a", "b", "c"])
        assert all(isinstance(result, ToolError) and result.passing for result in results)
        assert (tool.counts.failed, tool.counts.failed_calls_in_row) == (3 * calls, calls)
    assert [round(pause, 0) for pause in no_pause] in ([1, 1, 2] * 2, [0, 1, 2] * 2)


def refuses(request: dict[str, object]) -> tuple[int, bytes]:
    return (500, b'{"detail": "index out of range"}') if "poison" in request["queries"] else good(request)  # type: ignore[operator]


def refuses_as_malformed(request: dict[str, object]) -> tuple[int, bytes]:
    return (422, b"[]") if "poison" in request["queries"] else good(request)  # type: ignore[operator]


def hangs_up(request: dict[str, object]) -> tuple[int, bytes]:
    return (200, b"garbage") if "poison" in request["queries"] else good(request)  # type: ignore[operator]


def hangs(request: dict[str, object]) -> tuple[int, bytes]:
    if "poison" in request["queries"]:  # type: ignore[operator]
        time.sleep(3)
    return good(request)


@pytest.mark.parametrize("server", [refuses, refuses_as_malformed, hangs_up, hangs])
@pytest.mark.parametrize(("place", "retries"), [(0, 0), (17, 1), (31, 5)])
def test_a_bad_query_fails_alone(server: Answer, retries: int, place: int, no_pause: list[float]) -> None:
    """Of 32 queries only the one that the server cannot answer fails, wherever it stands and whatever it causes."""
    queries = [f"q{i}" for i in range(32)]
    queries[place] = "poison"
    with stand_in(server) as url:
        timeout_s = 0.5 if server is hangs else 5  # a busy machine answers late, and is no fault of the query's
        tool = SearchTool(HTTPRetriever(url, timeout_s=timeout_s, retries=retries), timeout_s=10)
        results = tool.ask(queries)
        with pytest.raises(ToolError, match="search 'poison' failed"):
            tool(queries)
    assert [i for i, result in enumerate(results) if isinstance(result, ToolError)] == [place]
    assert [result for i, result in enumerate(results) if i != place] == [[KELO]] * 31
    assert (tool.counts.failed, tool.counts.failed_calls_in_row) == (2, 0)


def test_what_was_answered_in_time_counts() -> None:
    """Where the batch as a whole takes too long, queries that were answered by then keep their answers."""
    with stand_in(hangs) as url:
        tool = SearchTool(HTTPRetriever(url, timeout_s=1), timeout_s=1.7)
        results = tool.ask(["a", "poison", "b"])
    assert results[0] == results[2] == [KELO]
    assert isinstance(results[1], ToolError) and "timeout_s=1.7" in str(results[1])


class Local:
    """A retriever in this process that cannot answer one query."""

    def __init__(self, answer: Callable[[str], list[Hit]]) -> None:
        self.answer = answer

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self.answer(query) for query in queries]


def test_a_bad_query_of_a_local_retriever_fails_alone() -> None:
    """The same for any retriever: it is asked again query by query, and the cause is chained."""

    def answer(query: str) -> list[Hit]:
        if query == "poison":
            raise KeyError("passage 7")
        return [Hit(KELO, 1.0)]

    results = SearchTool(Local(answer)).ask(["a", "poison", "b"])
    assert results[0] == results[2] == [KELO]
    assert isinstance(results[1], ToolError) and isinstance(results[1].__cause__, KeyError)


ODD = [
    ({"id": "9", "contents": '""\n'}, None),
    ({"id": "9", "contents": ""}, None),
    ({"id": "9", "title": None, "text": " "}, None),
    ({"id": "9", "title": None, "text": "x"}, Passage("9", "", "x")),
    ({"_id": "9", "title": "T", "text": "x"}, Passage("9", "T", "x")),
    ({"id": 9.0, "contents": "x"}, Passage("9", "", "x")),
    ({"id": "9\ud83d", "contents": '"T\udc00"\nhalf \ud83d'}, Passage("9\ufffd", "T\ufffd", "half \ufffd")),
]


@pytest.mark.parametrize(("document", "passage"), ODD)
def test_odd_passages_of_a_server(document: dict[str, object], passage: Passage | None) -> None:
    """Empty passages are left out, null titles are none, half a surrogate pair is U+FFFD; the others stay."""
    body = json.dumps({"result": [[GOOD, {"document": document, "score": 0.5}]]}).encode()
    with stand_in(lambda request: (200, body)) as url:
        (found,) = SearchTool(HTTPRetriever(url, retries=0))(["q"])
    assert found == [KELO] + ([] if passage is None else [passage])


@pytest.mark.parametrize(
    "document",
    [
        {"id": "9", "contents": 3},
        {"id": "9", "title": 3, "text": "x"},
        {"id": "9", "text": None},
        {"id": True, "text": "x"},
    ],
)
def test_passages_of_another_type_fail_their_query(document: dict[str, object]) -> None:
    """A number or null where text belongs is an error that names the document, for the query that found it alone."""

    def answer(request: dict[str, object]) -> tuple[int, bytes]:
        items = [
            [GOOD, {"document": document, "score": 0}] if query == "odd" else [GOOD] for query in request["queries"]
        ]  # type: ignore[attr-defined]
        return 200, json.dumps({"result": items}).encode()

    with stand_in(answer) as url:
        good_one, odd_one = SearchTool(HTTPRetriever(url, retries=0)).ask(["q", "odd"])
    assert good_one == [KELO]
    assert isinstance(odd_one, ToolError) and "result 0, document 1" in str(odd_one)


def test_odd_passages_of_a_local_retriever() -> None:
    """The tool checks what any retriever gives: None is an error of that query, a half pair is mended, blanks go."""
    given = {
        "none": Passage("1", None, "x"),  # type: ignore[arg-type]  # it is what is tested
        "half": Passage("1", "T", "half \ud83d"),
        "blank": Passage("1", " ", ""),
    }
    none, half, blank = SearchTool(Local(lambda query: [Hit(given[query], 1.0)])).ask(list(given))
    assert isinstance(none, ToolError) and "a passage's title is None" in str(none)
    assert half == [Passage("1", "T", "half \ufffd")]
    assert blank == []


def test_half_a_pair_in_a_query_is_asked_as_a_whole() -> None:
    """A query with half a surrogate pair goes out as U+FFFD, and its answer comes back to it."""
    asked: list[object] = []
    with stand_in(lambda request: (asked.extend(request["queries"]), good(request))[1]) as url:  # type: ignore[arg-type]
        assert len(HTTPRetriever(url).search(["\ud83d", "b"], 1)) == 2
    assert asked == ["\ufffd", "b"]


@pytest.fixture
def hung() -> Iterator[str]:
    release = threading.Event()

    def answer(request: dict[str, object]) -> tuple[int, bytes]:
        release.wait(20)
        return good(request)

    with stand_in(answer) as url:
        yield url
        release.set()


def test_a_server_that_hangs_is_given_up_in_time(hung: str) -> None:
    """Nothing that the client tries on its own outlives the tool's patience, and every query has an error."""
    start = time.monotonic()
    results = SearchTool(HTTPRetriever(hung, timeout_s=0.4), timeout_s=1.5).ask([f"q{i}" for i in range(64)])
    assert time.monotonic() - start < 4
    assert all(isinstance(result, ToolError) and result.passing for result in results)


def test_a_password_in_the_address_is_in_no_error(no_pause: list[float]) -> None:
    """Errors name the server without the user and password that its address may hold."""
    with stand_in(good) as url:
        pass
    with pytest.raises(RetrieverError) as error:
        HTTPRetriever(url.replace("http://", "http://ann:secret@"), retries=0).search(["a"], 1)
    assert "secret" not in str(error.value) and url in str(error.value)
