"""Hold the keys by which a recipe names an environment other than search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import yaml

from a2tgpo.environments.calls import CallLimits
from a2tgpo.errors import RecipeError

Protocol = Literal["tags", "tools"]

SEARCH_ONLY = (
    *("corpus", "retriever", "passages_per_search", "title_weight", "search_timeout_s", "search_cache"),
    *("result_format", "only_answerable", "world_entities", "world_correlation", "hops", "warm_start_hops"),
    *("stops_early", "wrong_hop"),
)
"""Keys that mean nothing beside an environment, which is not searched."""


@dataclass
class EnvironmentKeys:
    """Hold what answers the policy instead of a search, and how it is called.

    Raises:
        RecipeError: a value out of range, or keys that contradict each other.
    """

    environment: str | None = field(
        default=None,
        metadata={
            "help": "What answers the policy, package.module:Class (reset and step, or public methods as tools); none "
            "= search."
        },
    )
    environment_args: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of `environment`, a mapping; as a flag '{max_number: 9}'."}
    )
    tools: list[str] | None = field(
        default=None,
        metadata={
            "help": "More tools, or all: functions as package.module:function, MCP servers as {mcp: [command] or URL, "
            "only: [names], environment: {NAME: value} or [NAME], a variable of yours}."
        },
    )
    rows: str | None = field(
        default=None,
        metadata={
            "help": "What makes the rows, package.module:function of (n, seed); none = `questions`, or the method "
            "`rows` of the environment."
        },
    )
    protocol: Protocol = field(
        default="tags",
        metadata={"help": "How turns call tools: the paper's 'tags', or the chat template's own 'tools'."},
    )
    demonstrations: str | None = field(
        default=None,
        metadata={
            "help": "What plays for the warm start, package.module:function of (row, texts read so far), which returns "
            "the next turn."
        },
    )
    observation_tokens: int | None = field(
        default=None, metadata={"help": "Tokens shown of a text that a tool answers; none = 3 times `passage_tokens`."}
    )
    call_timeout_s: float = field(
        default=30.0, metadata={"help": "Seconds before a call of an environment counts as failed."}
    )
    max_concurrent_calls: int = field(default=64, metadata={"help": "Calls of environments that run at a time."})
    call_patience_s: float = field(
        default=0.05,
        metadata={
            "help": "Seconds that rollouts wait for each other's calls; .inf makes a seeded run repeatable however "
            "slow the environment."
        },
    )

    @property
    def in_environment(self) -> bool:
        """Tell whether something other than search answers the policy."""
        return self.environment is not None or self.tools is not None

    @property
    def environment_arguments(self) -> dict[str, Any]:
        """Return the arguments of the environment."""
        assert not isinstance(self.environment_args, str), "a text is read at construction"
        return self.environment_args or {}

    @property
    def call_limits(self) -> CallLimits:
        """Return the bounds of calls."""
        return CallLimits(self.call_timeout_s, self.max_concurrent_calls, self.call_patience_s)

    def check_environment(self) -> None:
        """Read texts that are mappings, and refuse what contradicts itself.

        Raises:
            RecipeError: see the class.
        """
        self.environment_args = _mapping("environment_args", self.environment_args)
        if self.tools is not None:
            tools: Any = [self.tools] if isinstance(self.tools, str | Mapping) else list(self.tools)
            self.tools = [_mapping("tools", tool) if _is_mapping(tool) else tool for tool in tools] or None
        if self.environment_args is not None and self.environment is None:
            raise RecipeError(f"environment_args={self.environment_args!r} without environment: give its path")
        if self.protocol not in ("tags", "tools"):
            raise RecipeError(f"protocol={self.protocol!r}: choose 'tags' or 'tools'")
        if self.observation_tokens is not None and self.observation_tokens < 1:
            raise RecipeError(f"observation_tokens={self.observation_tokens}: must be at least 1")
        try:
            self.call_limits  # noqa: B018  # raises
        except ValueError as error:
            raise RecipeError(f"calls of the environment: {error}") from error


def refuse_other_keys(given: Iterable[str], keys: EnvironmentKeys) -> None:
    """Refuse keys of search among those `given` beside an environment, and those of environments beside search.

    Raises:
        RecipeError: there are some; all are named.
    """
    if keys.in_environment:
        names: tuple[str, ...] = SEARCH_ONLY
        told = "for search, and this recipe has an environment or tools; leave out"
    else:
        names = tuple(field.name for field in fields(EnvironmentKeys))
        told = "of an environment, and this recipe searches; leave out, or give environment or tools"
    present = {name for name in given if getattr(keys, name, None) is not None}
    if found := [key for key in names if key in present]:
        raise RecipeError(f"{', '.join(found)}: {told}")


def _is_mapping(tool: Any) -> bool:
    return isinstance(tool, Mapping) or str(tool).lstrip().startswith("{")


def _mapping(name: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"{name}={value!r} is not YAML: {error}") from error
    if value is not None and not isinstance(value, Mapping):
        raise RecipeError(f"{name}={value!r}: expected a mapping such as '{{key: value}}'")
    return value if value is None else {str(key): each for key, each in value.items()}
