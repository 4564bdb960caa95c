"""Tools an agent can call."""

from a2tgpo.environments.search import SearchTool

__all__ = ["SearchTool"]
