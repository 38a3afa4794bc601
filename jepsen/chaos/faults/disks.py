"""Disks that are slow, full, or fail a sync.

Syncs are changed by the library of `shim` where the program takes it, else from outside by strace,
which works for any program. A disk that is full is one of the member's own: a small ext4 in a file,
as in `jepsen.power.disk`. A member whose disk fails must end, and is started again when the disk is
well: what it prints meanwhile is excused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import ClassVar, NamedTuple

from jepsen.chaos.faults import shim
from jepsen.chaos.faults.base import Done, Excuse, Fault
from jepsen.chaos.faults.maintenance import Call
from jepsen.power import disk
from jepsen.verdict import Finding
from kvstore.pb import rpc_pb2
from kvstore.testing import Cluster, NotInTime, wait_until

SYNC_DELAY_S = (0.02, 0.5)
END_S = 10.0
"""How long a member may go on until it meets the failure; it is under load."""
MANY_FAILURES = 50
"""Failed syncs that a member cannot have survived by chance: a copy of the backend may fail. Of the
log none may."""
MAX_LARGE_VALUES = 40
ROOM_BYTES = disk.SIZE_BYTES + (16 << 20)
"""The disk is full when it says so, and never fails for want of memory behind it."""
LARGE_BYTES = 1_000_000
_ATTACH_S = 10.0
NOISE_WRITERS = 2
NOISE_BYTES = 1 << 20
NOISE_PLACES = 32
"""Each writer goes round in so many places of its file."""
METRICS_S = 5.0
REFERENCE_S = 1.0
"""The speed of before is that of so long a time."""
LEAST_RATIO = 1.5
"""A disk is slow when its syncs take so many times as long as in the reference time."""
LEAST_SYNCS = 20
"""In the reference time, and under the fault, by all members together: fewer prove nothing."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Members are on this machine, whatever the environment says of proxies."""
_SYNCS = r"^etcd_disk_wal_fsync_duration_seconds_(count|sum)(?:\{[^}]*\})? (\S+)$"


class SyncTime(NamedTuple):
    """How many syncs of its log a member has made, since its start or in some time, and their
    seconds."""

    number: float
    seconds: float

    def since(self, earlier: SyncTime) -> SyncTime:
        return SyncTime(self.number - earlier.number, self.seconds - earlier.seconds)


def slowed(times: Sequence[tuple[SyncTime, SyncTime]]) -> tuple[int, str]:
    """Say how much longer members' syncs took under a fault than before it.

    Args:
        times: of each member what it made in the reference time, and under the fault.

    Returns:
        Milliseconds in all, 0 where nothing is proven, and the words for it.
    """
    both = [(before, under) for before, under in times if before.number > 0 and under.number > 0]
    fewest = min(sum(b.number for b, _ in both), sum(u.number for _, u in both))
    if fewest < LEAST_SYNCS:
        return 0, f"nothing proven: {fewest:g} syncs are too few to tell the disk's speed"
    took_s = sum(under.seconds for _, under in both)
    as_before_s = sum(under.number * before.seconds / before.number for before, under in both)
    if took_s < LEAST_RATIO * as_before_s or took_s <= 0.0:
        return 0, f"nothing proven: syncs took {took_s:.3f} s, {as_before_s:.3f} s as before it"
    longer_ms = max(1, round((took_s - as_before_s) * 1000))
    return longer_ms, f"syncs took {longer_ms} ms longer in all than at the speed of before"


class SlowDisk(Fault):
    """Writers sync without pause beside the members' data.

    Its effect is the milliseconds that the members' own syncs took longer than before.
    """

    name = "slow-disk"

    def __init__(self, cluster: Cluster, random: Random) -> None:
        super().__init__(cluster, random)
        self._stop = threading.Event()

    def begin(self) -> Done:
        folder = self.cluster.members[0].log_path.parent
        earlier = self._syncs(self.up())
        self._stop.wait(REFERENCE_S)
        self._before = self._syncs(list(earlier))
        self._reference = {i: now.since(earlier[i]) for i, now in self._before.items()}
        self._writers = [
            threading.Thread(
                target=self._write, args=(folder / f"noise-{n}",), name="noise", daemon=True
            )
            for n in range(NOISE_WRITERS)
        ]
        for writer in self._writers:
            writer.start()
        return Done(self.names(list(self._before)))

    def _write(self, path: Path) -> None:
        noise = bytes(NOISE_BYTES)
        with contextlib.suppress(OSError):  # a full disk is no slow one
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o600)
            try:
                while not self._stop.is_set():
                    for place in range(NOISE_PLACES):
                        os.pwrite(descriptor, noise, place * NOISE_BYTES)
                        if self._stop.is_set():
                            break
            finally:
                os.close(descriptor)
        path.unlink(missing_ok=True)

    def _syncs(self, numbers: Sequence[int]) -> dict[int, SyncTime]:
        """What members have made since their start, of those that tell."""
        found = {}
        for number in numbers:
            url = f"http://{self.cluster.members[number].own_endpoint}/metrics"
            with contextlib.suppress(OSError, KeyError, ValueError):
                with _OPENER.open(url, timeout=METRICS_S) as answer:
                    told = dict(re.findall(_SYNCS, answer.read().decode(), re.MULTILINE))
                found[number] = SyncTime(float(told["count"]), float(told["sum"]))
        return found

    def end(self, done: Done) -> None:
        after = self._syncs(list(self._before))
        self._stop.set()
        for writer in self._writers:
            writer.join()
        done.effect, done.detail = slowed(
            [(self._reference[i], now.since(self._before[i])) for i, now in after.items()]
        )

    def abandon(self) -> None:
        self._stop.set()


class _Syncs:
    """One member's syncs changed: late by some seconds, or failing with EIO where that is 0.

    Attributes:
        log_alone: only those of the log fail (strace cannot tell them apart).
    """

    def __init__(self, cluster: Cluster, number: int, delay_s: float, log_alone: bool) -> None:
        member = cluster.members[number]
        self._shim = shim.Shim(member) if not shim.missing(cluster) else None
        self.log_alone = log_alone and self._shim is not None
        if self._shim is not None:
            self._before = self._shim.sync_hits
            self._shim.syncs(fail=not delay_s, log_alone=log_alone, delay_s=delay_s)
            return
        assert member.process is not None
        self._trace = member.log_path.with_suffix(".strace")
        change = f"delay_enter={delay_s * 1e6:.0f}" if delay_s else "error=EIO"
        calls = "fsync,fdatasync"
        command = ["strace", "-f", "-qq", "-o", str(self._trace), "-e", f"trace={calls}"]
        command += ["-e", f"inject={calls}:{change}", "-p", str(member.process.pid)]
        self._strace = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        status = Path(f"/proc/{member.process.pid}/status")

        def attached() -> bool:  # or ended already, at its first sync
            return not member.running or "TracerPid:\t0\n" not in _read(status)

        try:
            wait_until(attached, _ATTACH_S, "strace is attached")
        except NotInTime:
            self.mend()
            raise

    @property
    def hits(self) -> int:
        if self._shim is not None:
            return self._shim.sync_hits - self._before
        return sum(_read(self._trace).count(mark) for mark in ("(INJECTED)", "(DELAYED)"))

    def mend(self) -> None:
        if self._shim is not None:
            self._shim.syncs()
            return
        self._strace.send_signal(signal.SIGINT)  # it lets go of the member
        try:
            self._strace.wait(_ATTACH_S)
        except subprocess.TimeoutExpired:
            self._strace.kill()  # the kernel lets go of the member then
            self._strace.wait()


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


class SlowSync(Fault):
    """Each sync of one member takes up to half a second longer."""

    name = "slow-sync"

    @classmethod
    def prepare(cls, cluster: Cluster, stack: ExitStack) -> None:
        shim.install(cluster)

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        why = shim.missing(cluster)
        return f"{why}, and there is no strace" if why and not shutil.which("strace") else ""

    def delay_s(self) -> float:
        return self.random.uniform(*SYNC_DELAY_S)

    def begin(self) -> Done:
        preloaded = not shim.missing(self.cluster)
        members = self.cluster.members
        able = [i for i in self.up() if not preloaded or shim.Shim.has(members[i])]
        self._victim = self.random.choice(able)
        self._excuse = Excuse(self.cluster, self._victim)
        delay_s = self.delay_s()
        log_alone = self.random.random() < 0.5
        done = self.hits(self._victim)
        self._syncs = _Syncs(self.cluster, self._victim, delay_s, log_alone)
        done.detail = f"{delay_s:.2f} s each" if delay_s else ""
        return done

    def end(self, done: Done) -> None:
        done.effect = self._syncs.hits
        self._syncs.mend()


class FailingSync(SlowSync):
    """Every sync of one member fails: it must end, and acknowledge nothing from then on."""

    name = "failing-sync"
    ends_members = True

    def delay_s(self) -> float:
        return 0.0

    def begin(self) -> Done:
        done = super().begin()
        self.ends(self._victim, END_S)
        return done

    def end(self, done: Done) -> None:
        super().end(done)
        done.detail = f"{done.effect} failed" + ", of the log alone" * self._syncs.log_alone
        if self.ends(self._victim, END_S if done.effect else 0.0):
            self._excuse.ends(done)
        elif done.effect > (0 if self._syncs.log_alone else MANY_FAILURES):
            text = f"{done.targets[0]} runs on after {done.effect} failed syncs"
            done.findings.append(Finding("failed syncs survived", text))
        self.start_ended(self._victim)


class FullDisk(Call):
    """The disk of one member fills up: it ends, or serves on as far as it needs no more room."""

    name = "full-disk"
    ends_members = True
    _failed: ClassVar[str] = ""
    """Why the disk could not be made."""

    @classmethod
    def prepare(cls, cluster: Cluster, stack: ExitStack) -> None:
        if disk.missing():
            return
        member = cluster.members[-1]
        cls._failed = ""
        try:
            made = disk.PowerDisk(cluster.directory.resolve(), f"{member.name}.disk", ROOM_BYTES)
        except (disk.DiskError, OSError) as error:
            cls._failed = str(error)
            return
        stack.callback(made.remove)
        member.data_dir = made.folder / "data"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        why = disk.missing() or cls._failed
        return why or ("" if cls._victims(cluster) else "no member has its own disk")

    @staticmethod
    def _victims(cluster: Cluster) -> list[int]:
        here = cluster.directory.stat().st_dev
        members = enumerate(cluster.members)
        return [i for i, m in members if m.running and m.data_dir.parent.stat().st_dev != here]

    def begin(self) -> Done:
        victims = self._victims(self.cluster)
        if not victims:
            return Done([])
        self._victim = victims[0]
        self._excuse = Excuse(self.cluster, self._victim)
        self._ballast = self.cluster.members[self._victim].data_dir.parent / "ballast"
        done = self.hits(self._victim)
        filled = _fill(self._ballast)
        self._need_room()
        done.detail = f"{filled >> 20} MiB of ballast"
        return done

    def _need_room(self) -> None:
        """Write large values until the member ends: for small ones it may have room in its file."""
        member = self.cluster.members[self._victim]
        for _ in range(MAX_LARGE_VALUES):
            if not member.running:
                return
            request = rpc_pb2.PutRequest(key=b"chaos/large", value=bytes(LARGE_BYTES))
            others = [i for i in self.up() if i != self._victim] or self.up()
            self.call(self.random.choice(others), "KV/Put", request, rpc_pb2.PutResponse())
        self.ends(self._victim, END_S)

    def end(self, done: Done) -> None:
        if not done.targets:
            return
        done.effect = int(not self.cluster.members[self._victim].running)
        self._ballast.unlink()
        if done.effect:
            self._excuse.ends(done)
        self.start_ended(self._victim)


def _fill(path: Path) -> int:
    """Take all the room there is; return how many bytes that were."""
    size, step = 0, 1 << 30
    with path.open("wb") as file:
        while step >= 512:
            try:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                step //= 2
    return size
