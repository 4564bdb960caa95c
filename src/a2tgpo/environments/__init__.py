"""Answer the policy: environments of every kind, search among them."""

from a2tgpo.environments.calls import CallLimits
from a2tgpo.environments.environment import Action, Environment, InvalidAction, StepResult, Tool
from a2tgpo.environments.episodes import BatchedEnvironment, EnvironmentPool
from a2tgpo.environments.loading import load_object
from a2tgpo.environments.search import SearchTool
from a2tgpo.environments.search_environment import SearchEnvironment
from a2tgpo.environments.tool_environment import ToolEnvironment

__all__ = [
    "Action",
    "BatchedEnvironment",
    "CallLimits",
    "Environment",
    "EnvironmentPool",
    "InvalidAction",
    "SearchEnvironment",
    "SearchTool",
    "StepResult",
    "Tool",
    "ToolEnvironment",
    "load_object",
]
