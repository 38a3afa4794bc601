"""Files that are damaged under a minority of the members, while they do not run.

A torn write at a log's end is what a crash leaves: the member cuts it and goes on. Anything else is
a disk's fault, which must be detected, and never served: the member refuses to start, or fails at
what it reads. It is then replaced, since it may have lost what it had acknowledged; until then it
could vote without knowing what it has promised, so it alone is damaged.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from random import Random

import grpc

from jepsen.chaos.faults.base import Done, Excuse, Fault, fewer_than_three, runs_kvstore
from jepsen.chaos.faults.processes import Kill
from jepsen.chaos.torn_log import tear
from kvstore.pb import rpc_pb2
from kvstore.testing import Cluster

MAX_FLIPS = 8
START_S = 15.0


class TornLog(Kill):
    """SIGKILL one member in the middle of a write to its log, then a start."""

    name = "torn-log"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return "" if runs_kvstore(cluster) else "it knows the log files of kvstore only"

    def victims(self) -> list[int]:
        return [self.random.choice(self.up())]

    def begin(self) -> Done:
        done = super().begin()
        folder = self.cluster.members[self.chosen[0]].data_dir / "member" / "wal"
        done.detail = tear(folder, self.random)
        if done.detail.endswith("nothing was torn"):
            done.effect = 0
        return done


class DamagedBackend(Fault):
    """Bits of one member's database flip while it does not run; later its disk is replaced."""

    name = "damaged-backend"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        if not runs_kvstore(cluster):
            return "the files of other servers have no checksums to detect it by"
        return fewer_than_three(cluster)

    def damage(self, folder: Path) -> str:
        """Damage what is below ``member/``; return what was done, "" if nothing could be."""
        return flip_bits(folder / "snap" / "db", self.random, self.random.randint(1, MAX_FLIPS))

    def begin(self) -> Done:
        self._victim = victim = self.random.choice(self.up())
        self._excuse = Excuse(self.cluster, victim)
        self.cluster.kill(victim)
        done = Done(self.names([victim]))
        what = self.damage(self.cluster.members[victim].data_dir / "member")
        done.effect = int(bool(what))
        self.cluster.start(victim, wait=False)
        done.detail = f"{what}; {self.serves_or_ends(victim, START_S)}"
        return done

    def end(self, done: Done) -> None:
        member = self.cluster.members[self._victim]
        if not member.running:
            done.detail += ", it is down"
        try:
            self.cluster.replace_member(self._victim)
        finally:
            self._excuse.ends(done)
        if disarm(self.cluster):
            done.detail += ", CORRUPT was raised"


class DamagedLog(DamagedBackend):
    """Bits of one member's log flip, or its end is missing; later its disk is replaced."""

    name = "damaged-log"

    def damage(self, folder: Path) -> str:
        paths = sorted((folder / "wal").glob("*.wal"))
        if not paths:
            return ""
        path = self.random.choice(paths)
        if self.random.random() < 0.5:
            return flip_bits(path, self.random, self.random.randint(1, MAX_FLIPS))
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(self.random.randrange(size))
        return f"{path.name} is shorter"


def flip_bits(path: Path, random: Random, count: int) -> str:
    """Flip bits at places of a file that are not zero; return what was done."""
    content = path.read_bytes()
    used = len(content.rstrip(b"\0"))
    if not used:
        return ""
    flipped = 0
    with path.open("r+b") as file:
        for _ in range(count * 100):
            at = random.randrange(used)
            if flipped == count or not content[at]:
                continue
            file.seek(at)
            file.write(bytes([content[at] ^ 1 << random.randrange(8)]))
            flipped += 1
    return f"{flipped} bits of {path.name} are flipped"


def disarm(cluster: Cluster) -> int:
    """Take back all CORRUPT alarms, as an operator does when the member is replaced."""
    number = cluster.leader()
    call = cluster.channel(number).unary_unary(
        "/etcdserverpb.Maintenance/Alarm",
        request_serializer=rpc_pb2.AlarmRequest.SerializeToString,
        response_deserializer=rpc_pb2.AlarmResponse.FromString,
    )
    count = 0
    with contextlib.suppress(grpc.RpcError):
        for alarm in call(rpc_pb2.AlarmRequest(alarm=rpc_pb2.CORRUPT), timeout=5.0).alarms:
            request = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.DEACTIVATE,
                memberID=alarm.memberID,
                alarm=rpc_pb2.CORRUPT,
            )
            call(request, timeout=5.0)
            count += 1
    return count
