"""Tools an agent can call."""

from a2tgpo.tools.search import SearchTool

__all__ = ["SearchTool"]
