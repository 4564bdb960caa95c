"""docs/trl.md names options that exist, and every method whose behaviour it tells apart."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from trl import GRPOConfig

from a2tgpo import A2TGPOConfig
from a2tgpo.integrations.trl.objective import AGGREGATES, CONTRADICTIONS, OTHER_OBJECTIVES
from a2tgpo.methods import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "trl.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+)", PAGE, flags=re.MULTILINE)
OPTIONS = [name for row in ROWS for name in re.findall(r"`([a-z_*]+)`", row)]


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_of_the_table_exists(option: str) -> None:
    """A star stands for a family of options."""
    fields = A2TGPOConfig.__dataclass_fields__
    assert (
        any(name.startswith(option.removesuffix("*")) for name in fields) if option.endswith("*") else option in fields
    )


def test_every_option_of_trls_is_there() -> None:
    """Each option that the installed TRL has beyond those of transformers, and their number of the release named."""
    own = [name for name in GRPOConfig.__dataclass_fields__ if name in GRPOConfig.__annotations__]
    listed = set(re.findall(r"`([a-z0-9_]+)`", PAGE.split("## Tools")[0]))
    assert set(own) <= listed, sorted(set(own) - listed)
    if version("trl").startswith("1.16."):
        assert f"All {len(own)} options" in PAGE


def test_what_the_code_refuses_or_renames_is_there() -> None:
    """Every loss type, and every option that can contradict a method."""
    assert {f"`{name}`" for name in (*AGGREGATES, *OTHER_OBJECTIVES)} <= set(re.findall(r"`[a-z_]+`", PAGE))
    assert {one.option for one in CONTRADICTIONS} <= set(OPTIONS)


def test_the_methods_that_take_a_scaled_outcome() -> None:
    """The row of `scale_rewards` tells apart exactly the rules that add the outcome as it is."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `scale_rewards`")]
    taking, _ = row.split(". igpo", 1)
    for name, method in METHODS.items():
        if "-" not in name and "+" not in name:
            assert (name in taking.split("as it is:")[1]) == getattr(method.credit, "adds_outcome", False), name
    assert not any(getattr(METHODS[n].credit, "adds_outcome", False) for n in ("igpo", "tree-grpo", "a2tgpo-release"))
