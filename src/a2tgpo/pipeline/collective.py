"""Exchange rows between the processes of a run, in the few ways that credit needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Shaped

T = TypeVar("T")


class Collective(Protocol):
    """Join what the processes of a run hold; each engine brings its own, over its own process group.

    Every method is a collective: all processes call it, in the same order. Each process holds equally many rows, and
    joined rows come in the order of the ranks.
    """

    @property
    def rank(self) -> int:
        """Number this process, from 0."""

    @property
    def size(self) -> int:
        """Count the processes."""

    def gather(self, rows: Shaped[Tensor, "*rows"], padding: int = 0) -> Shaped[Tensor, "*all_rows"]:
        """Join the rows of all processes, columns padded on the right to the widest with `padding`."""

    def gather_objects(self, items: list[T]) -> list[T]:
        """Join lists of anything that can be pickled."""

    def any(self, here: bool) -> bool:
        """Return whether `here` is true in any process."""


class SingleProcess:
    """Be the collective of a run in one process, or of a driver that holds all rows: everything is here already."""

    rank = 0
    size = 1

    def gather(self, rows: Shaped[Tensor, "*rows"], padding: int = 0) -> Shaped[Tensor, "*rows"]:
        """Return `rows`."""
        return rows

    def gather_objects(self, items: list[T]) -> list[T]:
        """Return `items`."""
        return items

    def any(self, here: bool) -> bool:
        """Return `here`."""
        return here
