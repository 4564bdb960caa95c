"""A tool as verl's users write one, loaded through `multi_turn.function_tool_path`."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from verl.tools.function_tool import function_tool

from a2tgpo.retrieval.bm25 import BM25Retriever


@functools.cache
def _retriever() -> BM25Retriever:
    return BM25Retriever.build(Path(os.environ["A2TGPO_TEST_CORPUS"]), title_weight=3)


@function_tool
def search(query: str) -> str:
    """Search the passages.

    Args:
        query: What to look for.
    """
    (passages,) = _retriever().search([query], 2)
    shown = " ".join(f'[{i}] "{one.passage.title}" {one.passage.text}' for i, one in enumerate(passages, start=1))
    return f"<result> {shown} </result>"
