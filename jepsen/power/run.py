"""Cut the power of one member or of all, again and again, while clients write.

Every second time the disk breaks first: syncs fail, and what they should have written is gone.

What must hold: every member starts again by itself, and every write that was acknowledged is there
with its revision, on every member (scenarios 27 to 31 of docs/reliability.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random

from jepsen.chaos.client import Connection, Failed
from jepsen.power.disk import PowerDisk
from jepsen.verdict import Finding, Validity, Verdict
from kvstore.testing import Cluster, MemberEnded, NotInTime
from kvstore.testing.processes import PROGRAM

WRITERS = 8
VALUE_BYTES = 200
KEYS = 500
"""Keys are written again and again, so that the backend's pages are too."""
LEAST_WRITES = 20
"""Acknowledged writes before each cut, at least."""
RECOVERY_S = 60.0
DYING_S = 0.5
"""Most time during which a disk fails before the cut."""


class Kind(StrEnum):
    """What may be found; nothing else is."""

    LOST = "acknowledged write lost"
    NOT_STARTED = "a member does not start"
    NOT_RECOVERED = "no recovery"
    NOT_SERVED = "a member does not serve"


@dataclass(slots=True)
class Report:
    """What the cuts came to."""

    cuts: int = 0
    of_all: int = 0
    acknowledged: int = 0
    verdict: Verdict = field(default_factory=lambda: Verdict("power", Validity.VALID))


@contextlib.contextmanager
def powered_cluster(
    directory: Path, size: int, program: Sequence[str], flags: Sequence[str]
) -> Iterator[tuple[Cluster, list[PowerDisk]]]:
    """A cluster each of whose members has a disk of its own."""
    disks: list[PowerDisk] = []
    with (
        contextlib.ExitStack() as stack,  # each is removed, whatever the others say
        Cluster(size, directory / "members", program=program, flags=flags, links=False) as cluster,
    ):
        for member in cluster.members:
            disk = PowerDisk(directory, f"{member.name}.disk")
            stack.callback(disk.remove)
            disks.append(disk)
            member.data_dir = disk.folder / "data"
        cluster.start()
        yield cluster, disks


def cut_again_and_again(
    directory: Path,
    *,
    cuts: int,
    seed: int,
    size: int = 3,
    program: Sequence[str] = PROGRAM,
    flags: Sequence[str] = ("--snapshot-count=500",),
    say: Callable[[str], None] = print,
) -> Report:
    """Cut the power `cuts` times. Needs what `disk.missing` names.

    Args:
        directory: where images, mounts and logs go.
        seed: of who is hit and when.
    """
    with powered_cluster(directory, size, program, flags) as (cluster, disks):
        return asyncio.run(_Cutter(cluster, disks, Random(seed), say).run(cuts))


class _Cutter:
    def __init__(
        self,
        cluster: Cluster,
        disks: Sequence[PowerDisk],
        random: Random,
        say: Callable[[str], None],
    ) -> None:
        self.cluster = cluster
        self.disks = disks
        self.random = random
        self.say = say
        self.report = Report()
        self.newest: dict[bytes, tuple[int, bytes]] = {}
        """Key -> (revision, value) of the newest write that was acknowledged."""
        self._count = 0

    async def run(self, cuts: int) -> Report:
        for number in range(cuts):
            everybody = self.random.random() < 0.5 or len(self.disks) == 1
            victims = list(range(len(self.disks)))
            if not everybody:
                victims = [self.random.randrange(len(self.disks))]
            try:
                await self._one_cut(victims)
            except MemberEnded as error:
                self._find(Kind.NOT_STARTED, f"after cut {number + 1}: {error}")
                break
            except NotInTime as error:
                self._find(Kind.NOT_RECOVERED, f"around cut {number + 1}: {error}")
                break
            self.report.cuts += 1
            self.report.of_all += everybody
            try:
                lost = await self._lost()
            except Failed as failure:
                self._find(Kind.NOT_SERVED, f"after cut {number + 1}: {failure}")
                break
            if lost:
                self._find(Kind.LOST, f"after cut {number + 1}: {lost[:5]}")
                break
            names = " ".join(self.cluster.members[i].name for i in victims)
            self.say(f"cut {number + 1}: {names}; {self.report.acknowledged} acknowledged")
        return self.report

    def _find(self, kind: Kind, text: str) -> None:
        self.report.verdict.validity = Validity.INVALID
        self.report.verdict.findings.append(Finding(kind.value, text))

    async def _one_cut(self, victims: Sequence[int]) -> None:
        connections = [Connection(m.name, m.endpoint) for m in self.cluster.members]
        stop = asyncio.Event()
        before = self.report.acknowledged
        writers = [
            asyncio.create_task(self._write(connections[i % len(connections)], stop))
            for i in range(WRITERS)
        ]
        try:
            await self._acknowledged(before + LEAST_WRITES)
        except NotInTime:
            stop.set()
            await asyncio.gather(*writers)
            raise
        await asyncio.sleep(self.random.uniform(0.0, 0.4))
        if self.random.random() < 0.5:
            # What a member acknowledges although its syncs fail it cannot keep.
            for number in victims:
                self.disks[number].starve()
            await asyncio.sleep(self.random.uniform(0.0, DYING_S))
        for number in victims:
            self.disks[number].cut()
        for number in victims:
            self.cluster.members[number].kill()
        stop.set()
        await asyncio.gather(*writers)
        for connection in connections:
            await connection.close()
        for number in victims:
            self.disks[number].restore()
            self.cluster.start(number, wait=False)
        await asyncio.to_thread(self.cluster.wait_ready, timeout_s=RECOVERY_S)

    async def _acknowledged(self, wanted: int) -> None:
        """Wait for so many acknowledged writes. Raises NotInTime."""
        deadline = asyncio.get_running_loop().time() + RECOVERY_S
        while self.report.acknowledged < wanted:
            if asyncio.get_running_loop().time() > deadline:
                raise NotInTime(f"{wanted} writes were not acknowledged within {RECOVERY_S:g} s")
            await asyncio.sleep(0.01)

    async def _write(self, connection: Connection, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._count += 1
            key = b"power/%04d" % self.random.randrange(KEYS)
            value = b"%d/" % self._count + b"x" * VALUE_BYTES
            try:
                answer = await connection.call("put", key=key, value=value, timeout_s=2.0)
            except Failed:
                await asyncio.sleep(0.02)
                continue
            revision = answer.header.revision
            self.report.acknowledged += 1
            if revision > self.newest.get(key, (0, b""))[0]:
                self.newest[key] = (revision, value)

    async def _lost(self) -> list[str]:
        """Acknowledged writes that a member does not have; an unknown write may be newer."""
        lost = []
        for member in self.cluster.members:
            connection = Connection(member.name, member.endpoint)
            answer = await connection.call(
                "range", key=b"power/", range_end=b"power0", timeout_s=RECOVERY_S
            )
            await connection.close()
            found = {kv.key: (kv.mod_revision, kv.value) for kv in answer.kvs}
            for key, (revision, value) in self.newest.items():
                there = found.get(key, (0, b""))
                if there[0] < revision or (there[0] == revision and there[1] != value):
                    lost.append(f"{member.name}: {key.decode()} of revision {revision}")
        return lost
