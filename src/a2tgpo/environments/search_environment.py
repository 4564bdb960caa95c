"""Make search an environment like any other: one tool, all rollouts asked for at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from a2tgpo.environments.environment import Action, StepResult, Tool
from a2tgpo.environments.episodes import BatchedEpisodes, Episodes
from a2tgpo.errors import ToolError
from a2tgpo.retrieval.corpus import Passage

BatchedSearch = Callable[[list[str]], list[list[Passage]]]
"""Return the passages of each query, best first; raise `ToolError` where that fails."""

SEARCH = Tool(
    "search",
    "Search for passages on a few keywords.",
    {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)


class SearchEnvironment:
    """Search for all rollouts that ask in one call (an `EnvironmentSource`).

    Args:
        search: batched search. Where it has a method `ask`, as `SearchTool` has, that answers a query which failed with
            a `ToolError` in its place, such a query fails its own rollout alone; otherwise all that asked with it.
    """

    tools = (SEARCH,)

    def __init__(self, search: BatchedSearch) -> None:
        self.search = search

    def open(self, *, branching: bool) -> Episodes:
        """Begin a batch; searching changes nothing, so that every episode can be copied."""
        return BatchedEpisodes(self)

    def step_all(self, actions: Sequence[Action]) -> list[StepResult | ToolError]:
        """Search for the queries of all actions at once."""
        ask = getattr(self.search, "ask", self.search)
        found = ask([query_of(action) for action in actions])
        return [passages if isinstance(passages, ToolError) else StepResult(tuple(passages)) for passages in found]


def query_of(action: Action) -> str:
    """Return what an action searches for, however its protocol wrote it."""
    if action.arguments is None:
        return action.text
    query = action.arguments.get("query")
    return query if isinstance(query, str) else action.text
