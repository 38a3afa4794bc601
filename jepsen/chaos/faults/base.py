"""What a fault is: a beginning, an end, and a proof of its effect.

Both run in a worker thread, since processes are waited for. Which faults can happen here is asked
once (`Fault.available`), after `Fault.prepare` has had its chance to change how members start.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import ClassVar, Final

from jepsen.verdict import Finding
from kvstore.testing import Cluster, MemberEnded, NotInTime

LEADER_S: Final = 5.0
"""How long a fault waits for a leader that it is about."""
SERVED: Final = "it served"


@dataclass(slots=True)
class Done:
    """What a fault hit.

    Attributes:
        effect: a count that is 0 when nothing was hit: then the fault tested nothing.
        checked: what the fault looked at by itself, such as a snapshot.
        findings: promises that were seen broken while looking.
        excused: log file -> (start, end) of what a member wrote while it was meant to fail.
    """

    targets: list[str]
    detail: str = ""
    effect: int = 0
    checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    excused: list[tuple[Path, int, int]] = field(default_factory=list)


class Fault(ABC):
    """One kind of fault; an object is made for each time it happens."""

    name: ClassVar[str]
    ends_members: ClassVar[bool] = False
    """Whether its targets may end because of it: any other member that ends meanwhile is a
    finding. Such a fault calls `hits` before it acts."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self.cluster = cluster
        self.random = random
        self.hit: list[str] = []
        """Names of the members that it acts on, as soon as it does."""

    @classmethod  # noqa: B027 - most faults need nothing
    def prepare(cls, cluster: Cluster, stack: ExitStack) -> None:
        """Change how members start, before the first does; `stack` is closed behind their end."""

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        """Return why it cannot happen on this cluster, which runs; "" if it can."""
        return ""

    @abstractmethod
    def begin(self) -> Done:
        """Break something. May raise what `Cluster` raises: then it did not happen."""

    def end(self, done: Done) -> None:  # noqa: B027 - many faults have nothing to mend
        """Mend it, and complete `done`."""

    def abandon(self) -> None:  # noqa: B027 - most leave nothing behind
        """Let what this process does for it end soon. Called behind `end`, and from another thread
        while either of them runs, if the run is interrupted: members are not mended then."""

    # What faults share.

    def hits(self, *numbers: int) -> Done:
        """Name those that it acts on from now on: they may end of it even if `begin` fails."""
        self.hit = self.names(numbers)
        return Done(list(self.hit))

    def names(self, numbers: Sequence[int]) -> list[str]:
        return [self.cluster.members[i].name for i in numbers]

    def up(self) -> list[int]:
        return [i for i in self.cluster.numbers if self.cluster.members[i].running]

    def minority(self) -> list[int]:
        return self.random.sample(self.up(), max(1, (len(self.cluster.numbers) - 1) // 2))

    def leader(self) -> int:
        """Raises NotInTime while nobody leads: a fault of the leader then did not happen."""
        return self.cluster.leader(timeout_s=LEADER_S)

    def start_ended(self, *numbers: int) -> None:
        """Start those of the members that do not run."""
        for number in numbers:
            if not self.cluster.members[number].running:
                self.cluster.start(number, wait=False)

    def ends(self, number: int, timeout_s: float) -> bool:
        """Wait for a member's process to end by itself; return whether it did."""
        with contextlib.suppress(NotInTime):
            self.cluster.members[number].wait_exit(timeout_s)
            return True
        return False

    def serves_or_ends(self, number: int, timeout_s: float) -> str:
        """Wait until a member that was started serves or ends; say which."""
        try:
            self.cluster.wait_ready(number, timeout_s=timeout_s)
        except MemberEnded:
            return "it refused to start"
        except NotInTime:
            return "it did not serve"
        return SERVED


class Excuse:
    """What a member writes into its log from now on is no crash of its own making."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._path = cluster.members[number].log_path
        self._start = self._path.stat().st_size

    def ends(self, done: Done) -> None:
        """Until here."""
        done.excused.append((self._path, self._start, self._path.stat().st_size))


def runs_kvstore(cluster: Cluster) -> bool:
    """Whether the members are of this package (broken ones too)."""
    return "kvstore" in cluster.program or "jepsen.mutants" in cluster.program


def fewer_than_three(cluster: Cluster) -> str:
    """Why a fault that takes a member away for good cannot happen, "" if it can."""
    return "" if len(cluster.numbers) >= 3 else "it needs three members"
