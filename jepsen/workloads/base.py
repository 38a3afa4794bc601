"""What a workload is: what clients do, how it ends, and who judges it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import ClassVar

from jepsen.chaos.client import Connection
from jepsen.chaos.recorder import Recorder
from jepsen.history import Op
from jepsen.verdict import Verdict


class Workload(ABC):
    """One workload of a run.

    ``step`` is called again and again by each client with a connection to some member; it records
    its operations and raises nothing for what a broken cluster answers. State that a client keeps
    is under its number.
    """

    name: ClassVar[str]
    min_ops: ClassVar[int] = 100
    """A run in which fewer operations succeeded proves too little."""

    def __init__(self, recorder: Recorder, random: Random) -> None:
        self.recorder = recorder
        self.random = random
        self._tasks: list[asyncio.Task[None]] = []
        """What goes on beside the clients' steps."""

    async def begin(self, connections: Sequence[Connection]) -> None:  # noqa: B027
        """Prepare, before faults begin. The default does nothing."""

    @abstractmethod
    async def step(self, client: int, connection: Connection) -> None:
        """Do one thing."""

    async def end(self, connections: Sequence[Connection]) -> None:  # noqa: B027
        """Look at what is left, after everything was healed. The default does nothing."""

    async def stop(self) -> None:
        """End what still goes on beside the clients' steps: it records how far it came."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @abstractmethod
    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        """Check the whole history's operations of this workload."""
