"""Files that are damaged under a minority of the members, while they do not run.

A torn write at a log's end is what a crash leaves: the member cuts it and goes on. Anything else is
a disk's fault, which must be detected, and never served: the member refuses to start, or fails at
what it reads. It is then replaced, since it may have lost what it had acknowledged; until then it
could vote without knowing what it has promised, so it alone is damaged.

A member that serves all the same is looked at: what its log reads back, damaged, against what it
was, and the hash of its state against another member's. Nothing may be read back that was not
written; what a torn write may take from the end may be missing.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any, Final

import grpc

from jepsen.chaos.faults.base import (
    SERVED,
    Done,
    Excuse,
    Fault,
    fewer_than_three,
    runs_kvstore,
)
from jepsen.chaos.faults.processes import Kill
from jepsen.chaos.torn_log import tear
from jepsen.verdict import Finding
from kvstore.pb import rpc_pb2
from kvstore.storage.errors import StorageError
from kvstore.storage.wal import Wal
from kvstore.storage.wal_replay import Recovered
from kvstore.testing import Cluster

MAX_FLIPS = 8
START_S = 15.0
HASH_S: Final = 20.0


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
    ends_members = True

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
        done = self.hits(victim)
        self.cluster.kill(victim)
        folder = self.cluster.members[victim].data_dir / "member"
        before = read_back(folder / "wal")
        what = self.damage(folder)
        done.effect = int(bool(what))
        after = read_back(folder / "wal")
        self.cluster.start(victim, wait=False)
        how = self.serves_or_ends(victim, START_S)
        done.detail = f"{what}; {how}"
        if how == SERVED:
            told, finding = compare_logs(before, after)
            done.detail += f" ({told})"
            done.findings += [finding] if finding is not None else []
        return done

    def end(self, done: Done) -> None:
        member = self.cluster.members[self._victim]
        if not member.running:
            done.detail += ", it is down"
        else:
            self._compare_state(done)
        try:
            self.cluster.replace_member(self._victim)
        finally:
            self._excuse.ends(done)
        if disarm(self.cluster):
            done.detail += ", CORRUPT was raised"

    def _compare_state(self, done: Done) -> None:
        """The hash of what it serves against another member's, where both answer."""
        others = [i for i in self.up() if i != self._victim]
        if not others:
            return
        with contextlib.suppress(grpc.RpcError):
            revision = self.cluster.status(self._victim).header.revision
            own, other = self._hash(self._victim, revision), self._hash(others[0], revision)
            if own.compact_revision != other.compact_revision:
                return
            done.checked = 1
            done.detail += ", same hash" if own.hash == other.hash else ", another hash"
            if own.hash != other.hash:
                text = f"{done.targets[0]} has hash {own.hash} at {revision}, not {other.hash}"
                done.findings.append(Finding("damage is served", text))

    def _hash(self, number: int, revision: int) -> Any:
        """Raises grpc.RpcError."""
        call = self.cluster.channel(number).unary_unary(
            "/etcdserverpb.Maintenance/HashKV",
            request_serializer=rpc_pb2.HashKVRequest.SerializeToString,
            response_deserializer=rpc_pb2.HashKVResponse.FromString,
        )
        return call(rpc_pb2.HashKVRequest(revision=revision), timeout=HASH_S)


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


def read_back(wal_dir: Path) -> Recovered | StorageError:
    """What a copy of a log opens with, or why it does not; nobody may have it open."""
    with tempfile.TemporaryDirectory(prefix="log-", dir=wal_dir.parent.parent) as scratch:
        copied = Path(scratch) / "wal"
        shutil.copytree(wal_dir, copied)
        try:
            wal, recovered = Wal.open(copied)
        except StorageError as error:
            return error
        wal.close()
        return recovered


def compare_logs(
    before: Recovered | StorageError, after: Recovered | StorageError
) -> tuple[str, Finding | None]:
    """What a member that serves made of its log: in words, and a finding if it took damage in."""
    if isinstance(before, StorageError):
        return f"its log could not be read: {before}", None
    if isinstance(after, StorageError):
        return "", Finding("damage is served", f"it serves, although: {after}")
    known = dict(enumerate(before.entries, before.snapshot.index + 1))
    read = dict(enumerate(after.entries, after.snapshot.index + 1))
    other = [index for index, entry in read.items() if known.get(index, entry) != entry]
    made_up = [index for index in read if index > before.snapshot.index and index not in known]
    if other or made_up or after.metadata != before.metadata:
        text = f"entries {(other + made_up)[:5]} are read back, and were not written so"
        return "", Finding("damaged record accepted", text)
    lost = len(known.keys() - read.keys())
    if lost:
        return f"the last {lost} entries are cut as a torn write", None
    return "its log reads back as before", None


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
