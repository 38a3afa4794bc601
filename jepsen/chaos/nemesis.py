"""The nemesis: faults on real processes, each with a beginning, an end and a proof of its effect.

A fault is a class with `begin` and `end`; both run in a worker thread, since processes are waited
for. Which faults can happen here is asked once (`available`): a missing privilege or tool leaves a
fault out with one line that says so, never silently.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import grpc

from jepsen.chaos.torn_log import tear
from kvstore.pb import rpc_pb2
from kvstore.testing import Cluster, Link

DELAY_S = 0.1
JITTER_S = 0.1
LOSS = 0.1
BANDWIDTH = 200_000.0


@dataclass(slots=True)
class Done:
    """What a fault hit."""

    targets: list[str]
    detail: str = ""
    effect: int = 0


class Fault(ABC):
    """One kind of fault; an object is made for each time it happens."""

    name: ClassVar[str]

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self.cluster = cluster
        self.random = random

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        """Return why it cannot happen here, "" if it can."""
        return ""

    @abstractmethod
    def begin(self) -> Done:
        """Break something."""

    def end(self, done: Done) -> None:  # noqa: B027 - many faults have nothing to mend
        """Mend it, and complete `done`."""

    # What faults share.

    def names(self, numbers: list[int]) -> list[str]:
        return [self.cluster.members[i].name for i in numbers]

    def up(self) -> list[int]:
        return [i for i, member in enumerate(self.cluster.members) if member.running]

    def minority(self) -> list[int]:
        return self.random.sample(self.up(), max(1, (len(self.cluster.members) - 1) // 2))

    def leader(self) -> int:
        with contextlib.suppress(AssertionError):
            return self.cluster.leader(timeout_s=5.0)
        return self.random.choice(self.up())


class _Kill(Fault):
    """SIGKILL, then a start."""

    def victims(self) -> list[int]:
        raise NotImplementedError

    def begin(self) -> Done:
        self.chosen = self.victims()
        self.cluster.kill(*self.chosen)
        return Done(self.names(self.chosen), effect=len(self.chosen))

    def end(self, done: Done) -> None:
        self.cluster.start(*self.chosen, wait=False)


class KillOne(_Kill):
    name = "kill"

    def victims(self) -> list[int]:
        return [self.random.choice(self.up())]


class KillLeader(_Kill):
    name = "kill-leader"

    def victims(self) -> list[int]:
        return [self.leader()]


class KillMajority(_Kill):
    name = "kill-majority"

    def victims(self) -> list[int]:
        return self.random.sample(self.up(), len(self.cluster.members) // 2 + 1)


class KillAll(_Kill):
    name = "kill-all"

    def victims(self) -> list[int]:
        return self.up()


class TornLog(_Kill):
    """SIGKILL one member in the middle of a write to its log, then a start."""

    name = "torn-log"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        ours = "kvstore" in " ".join(cluster.program)
        return "" if ours else "it knows the log files of kvstore only"

    def victims(self) -> list[int]:
        return [self.random.choice(self.up())]

    def begin(self) -> Done:
        done = super().begin()
        folder = self.cluster.members[self.chosen[0]].data_dir / "member" / "wal"
        done.detail = tear(folder, self.random)
        return done


class Pause(Fault):
    """SIGSTOP, then SIGCONT."""

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
    name = "pause-leader"

    def victims(self) -> list[int]:
        return [self.leader()]


class _LinkFault(Fault):
    """Something on links; its effect is the bytes that they held back."""

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return "" if cluster.links is not None else "the cluster has no proxies between members"

    def change(self) -> Done:
        raise NotImplementedError

    def begin(self) -> Done:
        assert self.cluster.links is not None
        self._before = sum(self.cluster.links.held().values())
        return self.change()

    def end(self, done: Done) -> None:
        assert self.cluster.links is not None
        done.effect = sum(self.cluster.links.held().values()) - self._before
        self.cluster.heal()

    def between(self, one: list[int], other: list[int]) -> list[tuple[int, int]]:
        return [(a, b) for a in one for b in other] + [(b, a) for a in one for b in other]


def _cut(link: Link) -> None:
    link.cut = True


class PartitionHalves(_LinkFault):
    name = "partition-halves"

    def change(self) -> Done:
        members = list(range(len(self.cluster.members)))
        self.random.shuffle(members)
        small = members[: len(members) // 2]
        self.cluster.partition(small)
        return Done(self.names(small))


class IsolateLeader(_LinkFault):
    name = "isolate-leader"

    def change(self) -> Done:
        leader = self.leader()
        self.cluster.partition([leader])
        return Done(self.names([leader]))


class PartitionOneWay(_LinkFault):
    """A member hears the others, or is heard, but not both."""

    name = "partition-one-way"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        others = [i for i in range(len(self.cluster.members)) if i != victim]
        deaf = self.random.random() < 0.5
        pairs = [(i, victim) if deaf else (victim, i) for i in others]
        self.cluster.links.change(pairs, _cut)
        return Done(self.names([victim]), "deaf" if deaf else "mute")


class PartitionRing(_LinkFault):
    """Each member reaches only its two neighbours; with three members one link is cut."""

    name = "partition-ring"

    def change(self) -> Done:
        assert self.cluster.links is not None
        order = list(range(len(self.cluster.members)))
        self.random.shuffle(order)
        count = len(order)
        neighbours = {(order[i], order[(i + 1) % count]) for i in range(count)}
        if count == 3:
            neighbours.discard((order[0], order[1]))
        cut = [
            (a, b)
            for a in order
            for b in order
            if a != b and (a, b) not in neighbours and (b, a) not in neighbours
        ]
        self.cluster.links.change(cut, _cut)
        return Done(self.names(order))


class PartitionBridge(_LinkFault):
    """Two halves that only one member reaches both of."""

    name = "partition-bridge"

    def change(self) -> Done:
        assert self.cluster.links is not None
        order = list(range(len(self.cluster.members)))
        self.random.shuffle(order)
        bridge, rest = order[0], order[1:]
        half = len(rest) // 2
        self.cluster.links.change(self.between(rest[:half], rest[half:]), _cut)
        return Done(self.names([bridge]), "the bridge")


class SlowLinks(_LinkFault):
    name = "slow-links"

    def change(self) -> Done:
        assert self.cluster.links is not None

        def slow(link: Link) -> None:
            link.delay_s, link.jitter_s = DELAY_S, JITTER_S

        return self._all(slow)

    def _all(self, change: Callable[[Link], None]) -> Done:
        assert self.cluster.links is not None
        members = range(len(self.cluster.members))
        self.cluster.links.change([(a, b) for a in members for b in members if a != b], change)
        return Done(self.names(list(members)))


class LossyLinks(SlowLinks):
    name = "lossy-links"

    def change(self) -> Done:
        def lossy(link: Link) -> None:
            link.loss, link.bytes_per_s = LOSS, BANDWIDTH

        return self._all(lossy)


class Resets(_LinkFault):
    """All connections of a member break at once."""

    name = "resets"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        self._broken = self.cluster.links.reset(victim)
        return Done(self.names([victim]))

    def end(self, done: Done) -> None:
        super().end(done)
        done.effect = self._broken


class _Call(Fault):
    """A maintenance call under load."""

    def call(self, number: int, method: str, request: object, response: object) -> object | None:
        channel = self.cluster.channel(number)
        unary = channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,  # type: ignore[attr-defined]
            response_deserializer=type(response).FromString,  # type: ignore[attr-defined]
        )
        with contextlib.suppress(grpc.RpcError):
            answer: object = unary(request, timeout=20.0)
            return answer
        return None


class MoveLeader(_Call):
    name = "move-leader"

    def begin(self) -> Done:
        leader = self.leader()
        others = [i for i in self.up() if i != leader]
        if not others:
            return Done([])
        target = self.random.choice(others)
        with contextlib.suppress(grpc.RpcError):
            target_id = self.cluster.status(target).header.member_id
            request = rpc_pb2.MoveLeaderRequest(targetID=target_id)
            answer = self.call(
                leader, "Maintenance/MoveLeader", request, rpc_pb2.MoveLeaderResponse()
            )
            return Done(self.names([target]), effect=int(answer is not None))
        return Done(self.names([target]))


class Compact(_Call):
    name = "compact"

    def begin(self) -> Done:
        number = self.random.choice(self.up())
        with contextlib.suppress(grpc.RpcError):
            revision = self.cluster.status(number).header.revision - self.random.randrange(200)
            request = rpc_pb2.CompactionRequest(revision=max(revision, 1))
            answer = self.call(number, "KV/Compact", request, rpc_pb2.CompactionResponse())
            detail = f"at {request.revision}"
            return Done(self.names([number]), detail, int(answer is not None))
        return Done(self.names([number]))


class Defragment(_Call):
    name = "defragment"

    def begin(self) -> Done:
        number = self.random.choice(self.up())
        answer = self.call(
            number,
            "Maintenance/Defragment",
            rpc_pb2.DefragmentRequest(),
            rpc_pb2.DefragmentResponse(),
        )
        return Done(self.names([number]), effect=int(answer is not None))


class Terminate(Fault):
    """SIGTERM and a start: a rolling restart, one member of it."""

    name = "terminate"

    def begin(self) -> Done:
        self._victim = self.random.choice(self.up())
        with contextlib.suppress(AssertionError):
            self.cluster.stop(self._victim)
        return Done(self.names([self._victim]), effect=1)

    def end(self, done: Done) -> None:
        if not self.cluster.members[self._victim].running:
            self.cluster.start(self._victim, wait=False)


class WallClock(Fault):
    """The wall clock of one member jumps by a day (libfaketime): nothing may depend on it."""

    name = "wall-clock"
    _LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        if "python" not in os.path.basename(cluster.program[0]):
            return "programs in Go ask the kernel for the time, not the library that is replaced"
        return "" if os.path.exists(cls._LIBRARY) else "libfaketime is not installed"

    def begin(self) -> Done:
        self._victim = self.random.choice(self.up())
        days = self.random.choice(("-1d", "+1d"))
        member = self.cluster.members[self._victim]
        self.cluster.kill(self._victim)
        environment = {
            **os.environ,
            "LD_PRELOAD": self._LIBRARY,
            "FAKETIME": days,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        pid = member.start(self.cluster.command(self._victim), environment)
        if self.cluster.links is not None:
            self.cluster.links.set_pid(self._victim, pid)
        return Done([member.name], days, 1)

    def end(self, done: Done) -> None:
        self.cluster.kill(self._victim)
        self.cluster.start(self._victim, wait=False)


class SlowDisk(Fault):
    """A process that writes and syncs without pause beside the members' data."""

    name = "slow-disk"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return "" if shutil.which("dd") else "there is no dd"

    def begin(self) -> Done:
        folder = self.cluster.members[0].data_dir.parent
        self._path = folder / "noise"
        self._noise = subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={self._path}", "bs=64k", "count=2000", "oflag=dsync"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return Done(self.names(self.up()))

    def end(self, done: Done) -> None:
        self._noise.send_signal(signal.SIGKILL)
        self._noise.wait()
        done.effect = self._path.stat().st_size if self._path.exists() else 0
        self._path.unlink(missing_ok=True)


FAULTS: dict[str, type[Fault]] = {
    kind.name: kind
    for kind in (
        KillOne, KillLeader, KillMajority, KillAll, TornLog, Terminate, Pause, PauseLeader,
        PartitionHalves, IsolateLeader, PartitionOneWay, PartitionRing, PartitionBridge, SlowLinks,
        LossyLinks, Resets, MoveLeader, Compact, Defragment, WallClock, SlowDisk,
    )
}  # fmt: skip
