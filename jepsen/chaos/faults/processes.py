"""Members killed, ended and paused."""

from __future__ import annotations

import contextlib
import signal
from abc import abstractmethod
from typing import Final

from jepsen.chaos.faults.base import Done, Fault
from jepsen.verdict import Finding
from kvstore.testing import NotInTime

GRACEFUL: Final = (0, -signal.SIGTERM)
"""How a member may end when it is told to: etcd clears up, and then lets the signal end it."""


class Kill(Fault):
    """SIGKILL, then a start."""

    ends_members = True

    @abstractmethod
    def victims(self) -> list[int]:
        """Who is killed."""

    def begin(self) -> Done:
        self.chosen = self.victims()
        done = self.hits(*self.chosen)
        self.cluster.kill(*self.chosen)
        done.effect = len(self.chosen)
        return done

    def end(self, done: Done) -> None:
        self.cluster.start(*self.chosen, wait=False)


class KillOne(Kill):
    """SIGKILL one member, then a start."""

    name = "kill"

    def victims(self) -> list[int]:
        return [self.random.choice(self.up())]


class KillLeader(Kill):
    """SIGKILL the leader, then a start."""

    name = "kill-leader"

    def victims(self) -> list[int]:
        return [self.leader()]


class KillMajority(Kill):
    """SIGKILL a majority at once, then a start of each."""

    name = "kill-majority"

    def victims(self) -> list[int]:
        return self.random.sample(self.up(), len(self.cluster.numbers) // 2 + 1)


class KillAll(Kill):
    """SIGKILL all members at once, then a start of each."""

    name = "kill-all"

    def victims(self) -> list[int]:
        return self.up()


class Terminate(Fault):
    """SIGTERM and a start: a rolling restart, one member of it."""

    name = "terminate"
    ends_members = True

    def begin(self) -> Done:
        self._victim = self.random.choice(self.up())
        done = self.hits(self._victim)
        with contextlib.suppress(NotInTime):  # one that does not end in time was not hit
            code = self.cluster.stop(self._victim)
            done.effect = 1
            if code not in GRACEFUL:
                text = f"{done.targets[0]} ended with {code} at SIGTERM"
                done.findings.append(Finding("no graceful end", text))
        return done

    def end(self, done: Done) -> None:
        if not self.cluster.members[self._victim].running:
            self.cluster.start(self._victim, wait=False)


class Pause(Fault):
    """SIGSTOP one member, then SIGCONT."""

    name = "pause"

    def victims(self) -> list[int]:
        return self.minority()

    def begin(self) -> Done:
        self.chosen = self.victims()
        for number in self.chosen:
            self.cluster.pause(number)
        return Done(self.names(self.chosen), effect=len(self.chosen))

    def end(self, done: Done) -> None:
        for number in self.chosen:
            with contextlib.suppress(RuntimeError):
                self.cluster.resume(number)


class PauseLeader(Pause):
    """SIGSTOP the leader, which does not know that it was, then SIGCONT."""

    name = "pause-leader"

    def victims(self) -> list[int]:
        return [self.leader()]
