"""Make search an environment like any other: one tool, all rollouts asked for at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from a2tgpo.environments.environment import Action, StepResult, Tool
from a2tgpo.environments.episodes import BatchedEpisodes, Episodes
from a2tgpo.errors import ToolError
from a2tgpo.retrieval.corpus import Passage

BatchedSearch = Callable[[list[str]], Sequence[Sequence[Passage] | ToolError]]
"""Return the passages of each query, or a `ToolError` in place of those that one query cannot have; raise `ToolError`
where all fail."""

SEARCH = Tool(
    "search",
    "Search for passages on a few keywords.",
    {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)


class SearchEnvironment:
    """Search for all rollouts that ask in one call (an `EnvironmentSource`).

    Args:
        search: batched search, such as `SearchTool`.
    """

    tools = (SEARCH,)

    def __init__(self, search: BatchedSearch) -> None:
        self.search = search

    def open(self, *, branching: bool) -> Episodes:
        """Begin a batch; searching changes nothing, so that every episode can be copied."""
        return BatchedEpisodes(self)

    def step_all(self, actions: Sequence[Action]) -> list[StepResult | ToolError]:
        """Search for the queries of all actions at once."""
        found = self.search([query_of(action) for action in actions])
        return [passages if isinstance(passages, ToolError) else StepResult(tuple(passages)) for passages in found]


def query_of(action: Action) -> str:
    """Return what an action searches for, however its protocol wrote it."""
    if action.arguments is None:
        return action.text
    query = action.arguments.get("query")
    return query if isinstance(query, str) else action.text
