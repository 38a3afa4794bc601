"""What faults can do to the links between members, whatever these are made of.

Two networks do it: `kvstore.testing.links.Links`, proxies that need no privileges, and
`kvstore.testing.namespaces.Namespaces`, a network of the kernel's for which it takes root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Protocol

from kvstore.testing.links import Link


class Ability(Enum):
    """What not every network can do."""

    DELAY = "delay"


class Network(Protocol):
    """Directed links between members, who are known by their numbers, and to `CLIENTS`."""

    def change(self, pairs: Iterable[tuple[int, int]], change: Callable[[Link], None]) -> None:
        """Change directed links, all at one moment."""

    def heal(self) -> None:
        """Make every link perfect."""

    def held(self) -> Mapping[tuple[int, int], int]:
        """Bytes that each directed link held back, delayed or lost so far: the proof of a fault."""

    def reset(self, member: int, dialer: int | None = None) -> int:
        """Break all connections of a member (or those that `dialer` opened); return how many."""

    def lose(self, member: int) -> int:
        """Make all connections between a member and others half-open; return how many."""

    def lacks(self, ability: Ability) -> str:
        """Return why something cannot be done here, "" if it can."""

    def set_pid(self, member: int, pid: int) -> None:
        """Tell which process a member is now."""

    def close(self) -> None:
        """Take the network down."""
