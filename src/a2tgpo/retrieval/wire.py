"""Write and read the JSON of an answer to `POST /retrieve`, in the form Search-R1 gave it and verl took over.

With scores `{"result": [[{"document": {...}, "score": 0.7}, ...], ...]}`, one list per query; without, the lists
hold the bare documents. A document is a line of the corpus: `{"id", "contents"}`, where the first line of
`contents` is the title in double quotes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from a2tgpo.files import whole_text
from a2tgpo.retrieval.corpus import Passage, passage_of
from a2tgpo.retrieval.retriever import Hit

# On answers of our server: the same as "fingerprint" at /health. Clients cache by it.
FINGERPRINT_HEADER = "X-Index-Fingerprint"


def write_result(found: Sequence[Sequence[Hit]], return_scores: bool) -> dict[str, Any]:
    """Write the answer for what was found, with or without scores."""
    if return_scores:
        rows = [[{"document": _document(hit.passage), "score": float(hit.score)} for hit in hits] for hits in found]
    else:
        rows = [[_document(hit.passage) for hit in hits] for hits in found]
    return {"result": rows}


def read_result(answer: object, n_queries: int, k: int) -> list[list[Hit]]:
    """Read the hits of an answer with scores: one list per query, at most k hits each.

    Documents of Search-R1's BM25 server carry no id; theirs becomes a hash of their contents. Empty passages are left
    out.

    Raises:
        ValueError: the answer has another form; says what is wrong and where.
    """
    rows = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f'it is no object with a list "result": {_short(answer)}')
    if len(rows) != n_queries:
        raise ValueError(f"it holds {len(rows)} results for {n_queries} queries")
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) > k:
            raise ValueError(f"result {number} is no list of at most {k} documents: {_short(row)}")
        hits = (_hit(item, f"result {number}, document {rank}") for rank, item in enumerate(row))
        found.append([hit for hit in hits if not hit.passage.is_blank])
    return found


def _hit(item: object, place: str) -> Hit:
    document, score = (item.get("document"), item.get("score")) if isinstance(item, dict) else (None, None)
    if not isinstance(document, dict):
        raise ValueError(f'{place} has no object "document": {_short(item)}')
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ValueError(f'{place}: "score" is {score!r}; it must be a finite number')
    if not {"id", "_id"} & document.keys() and isinstance(contents := document.get("contents"), str):
        document = {**document, "id": hashlib.sha256(contents.encode()).hexdigest()[:16]}
    return Hit(passage_of(document, place), float(score))


def _document(passage: Passage) -> dict[str, Any]:
    title = passage.title.replace("\n", " ")  # a second line would be read as text
    return {"id": whole_text(passage.id), "contents": whole_text(f'"{title}"\n{passage.text}')}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
