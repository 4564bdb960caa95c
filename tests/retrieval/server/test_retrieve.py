"""`POST /retrieve` over a socket: Search-R1's JSON, its clients' code, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import urllib3

from a2tgpo.retrieval import BM25Retriever, Hit, Passage
from tests.retrieval.server.parts import Echo, metrics, post, served

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


class Fixed:
    """Two passages for every query, with the scores of two different types that indexes give."""

    def search(self, queries: list[str], k: int) -> list[list[Hit]]:
        passages = [Passage("0", "Aaron", "A prophet.\nBrother of Moses."), Passage("17", "", "No title.")]
        return [[Hit(passages[0], 0.75), Hit(passages[1], 0)][:k] for _ in queries]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(Fixed(), topk=2, max_topk=5, max_queries=3, max_query_chars=10, max_body_mb=1) as url:
        yield url


AARON = r'{"id":"0","contents":"\"Aaron\"\nA prophet.\nBrother of Moses."}'
UNTITLED = r'{"id":"17","contents":"\"\"\nNo title."}'


@pytest.mark.parametrize(
    ("request_body", "answer"),
    [
        ('{"queries":["a"],"topk":1,"return_scores":true}', f'{{"result":[[{{"document":{AARON},"score":0.75}}]]}}'),
        ('{"queries":["a","b"],"topk":1,"return_scores":false}', f'{{"result":[[{AARON}],[{AARON}]]}}'),
        (
            '{"queries":["a"],"topk":2,"return_scores":true}',
            f'{{"result":[[{{"document":{AARON},"score":0.75}},{{"document":{UNTITLED},"score":0.0}}]]}}',
        ),
        ('{"queries":[],"topk":3,"return_scores":true}', '{"result":[]}'),
    ],
)
def test_json_is_search_r1s(url: str, request_body: str, answer: str) -> None:
    """The answers, written by hand in the form Search-R1's server gives, field by field and in its order."""
    response = post(url, request_body.encode())
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.data.decode() == answer


@pytest.mark.parametrize("body", [{"queries": ["a"]}, {"queries": ["a"], "topk": None}, {"queries": ["a"], "topk": 0}])
def test_defaults_are_search_r1s(url: str, body: dict[str, object]) -> None:
    """Without a topk, or with null or 0, the server's own counts; scores come only when asked for."""
    (documents,) = json.loads(post(url, body).data)["result"]
    assert [sorted(document) for document in documents] == [["contents", "id"]] * 2


def search_r1_client(url: str, queries: list[str], topk: int) -> list[str]:
    """What Search-R1's agent and verl's search tool do with a server, in a few lines of our own."""
    payload = {"queries": queries, "topk": topk, "return_scores": True}
    results = urllib3.request("POST", f"{url}/retrieve", json=payload, headers={"Accept": "application/json"}).json()
    texts = []
    for found in results["result"]:
        blocks = []
        for number, item in enumerate(found, start=1):
            title, *lines = item["document"]["contents"].split("\n")
            blocks.append(f"Doc {number}(Title: {title}) " + "\n".join(lines) + "\n")
        texts.append("".join(blocks))
    return texts


def test_search_r1_client_reads_our_server(url: str) -> None:
    """A client in Search-R1's manner shows its model the same text that Search-R1's own server would give."""
    text = 'Doc 1(Title: "Aaron") A prophet.\nBrother of Moses.\nDoc 2(Title: "") No title.\n'
    assert search_r1_client(url, ["a", "b"], topk=2) == [text, text]


def test_a_real_index_answers_through_the_socket() -> None:
    """Every hit of a BM25 retriever comes back: ids, contents and scores, and an empty list for no hit."""
    retriever = BM25Retriever.from_passages([Passage(str(i), f"Town {i}", "By the river.") for i in range(5)])
    queries = ["river", "volcano", "town 4"]
    with served(retriever) as url:
        answer = post(url, {"queries": queries, "topk": 2, "return_scores": True}).json()
    assert answer["result"] == [
        [
            {
                "document": {"id": hit.passage.id, "contents": f'"Town {hit.passage.id}"\nBy the river.'},
                "score": hit.score,
            }
            for hit in hits
        ]
        for hits in retriever.search(queries, 2)
    ]


@pytest.mark.parametrize(
    ("body", "status", "error", "says"),
    [
        ({"queries": ["a"], "topk": -1}, 422, "TopkOutOfRange", "topk=-1: must be from 1 to 5"),
        ({"queries": ["a"], "topk": 6}, 422, "TopkOutOfRange", "topk=6: must be from 1 to 5"),
        ({"queries": ["a"] * 4}, 422, "TooManyQueries", "4 queries: at most 3"),
        ({"queries": ["a", "b" * 11]}, 413, "QueryTooLong", "query 1 has 11 characters: at most 10"),
        ({"queries": ["a" * 1024 * 1024]}, 413, "BodyTooLarge", "bytes and max_body_mb is 1"),
    ],
)
def test_too_much_is_refused(url: str, body: dict[str, object], status: int, error: str, says: str) -> None:
    """Every limit has its status, its name and a sentence with the number, and is counted by name."""
    counter = f'refusals_total{{reason="{error}"}}'
    before = metrics(url).get(counter, 0)
    response = post(url, body)
    assert response.status == status
    assert response.json()["error"] == error
    assert says in response.json()["detail"]
    assert metrics(url)[counter] == before + 1


@pytest.mark.parametrize("body", [b"garbage", b'{"queries": "one"}', b'{"topk": 3}', b'{"queries": [1]}', b"[]", b""])
def test_malformed_requests_are_422(url: str, body: bytes) -> None:
    """A body that is no request is the client's error, in FastAPI's own form as in Search-R1's server."""
    response = post(url, body)
    assert response.status == 422
    assert "detail" in response.json()


def test_chunked_bodies_are_refused(url: str) -> None:
    """A body of unknown length could grow without bound, so it is not read."""
    pieces = iter([b'{"queries":', b'["a"]}'])
    response = urllib3.request("POST", f"{url}/retrieve", body=pieces, retries=False)
    assert (response.status, response.json()["error"]) == (411, "LengthRequired")


def test_failing_retriever_is_500() -> None:
    """What the retriever raised is named in the body: a failure is never an empty result."""
    with served(Echo()) as url:
        response = post(url, {"queries": ["raise", "a"]})
        assert response.status == 500
        assert response.json() == {
            "error": "RetrieverFailed",
            "detail": "RetrieverError: KeyError: 'passage 7 is not in the corpus'",
        }
        assert post(url, {"queries": ["a"]}).status == 200
        assert metrics(url)['requests_total{status="500"}'] == 1


@pytest.mark.parametrize(
    "found", [[], None, [[Hit(Passage("0", "T", "x"), float("nan"))]], [["text"]]], ids=["count", "none", "nan", "type"]
)
def test_retriever_that_breaks_its_contract_is_500(found: object) -> None:
    """A wrong number of lists, no list, a score JSON cannot hold and what is no hit are failures of the server."""

    class Broken:
        def search(self, queries: list[str], k: int) -> object:
            return found

    with served(Broken()) as url:  # type: ignore[arg-type]  # it is what is tested
        response = post(url, {"queries": ["a"], "return_scores": True})
    assert (response.status, response.json()["error"]) == (500, "RetrieverFailed")


def test_health_names_the_index() -> None:
    """/health is ready and shows the manifest; the fingerprint follows its content and comes with every answer."""

    def health(index: dict[str, object] | None) -> dict[str, object]:
        with served(Echo(), index) as url:
            answer = urllib3.request("GET", f"{url}/health").json()
            header = post(url, {"queries": ["a"]}).headers.get("X-Index-Fingerprint")
        assert answer["status"] == "ready"
        assert (answer["index"], answer["fingerprint"]) == (index, header)
        return answer

    one, same, other = health({"sha": "1", "n": 2}), health({"n": 2, "sha": "1"}), health({"n": 2, "sha": "3"})
    assert one["fingerprint"] == same["fingerprint"] != other["fingerprint"]
    assert health(None)["fingerprint"] is None
