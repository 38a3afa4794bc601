"""One run: a cluster, its workloads, its faults, the healing, the last look, the verdict.

    start -> clients work -> faults come and go, one after the other -> heal -> every member serves
    -> last reads -> clients' histories are judged, members' hashes compared, logs scanned

A run that proved nothing says so: too few operations, a fault that never hit anything, a workload
without a successful operation make the verdict unknown, never valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from jepsen import history
from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.judging import judge
from jepsen.chaos.nemesis import FAULTS, Fault
from jepsen.chaos.recorder import Recorder
from jepsen.history import Sample
from jepsen.verdict import Finding, Validity, Verdict, worst
from jepsen.workloads import WORKLOADS, Workload
from kvstore.testing import Cluster, MemberEnded, NotInTime
from kvstore.testing.processes import PROGRAM

RECOVERY_S = 60.0
"""After the healing every member must serve within this time."""
SAMPLE_S = 0.5
_CRASH = re.compile(
    rb"Traceback \(most recent call last\)|\"level\":\"(?:fatal|critical|panic)\""
    rb"|^panic: .*|^fatal error: .*",  # what Go prints
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    Attributes:
        seconds: how long faults come and go.
        fault_s, pause_s: mean length of a fault, and of the time between two.
        clients: for each workload.
        rate: operations a second of each client, at most.
        program, flags: what the members run.
    """

    seed: int
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    faults: tuple[str, ...] = tuple(FAULTS)
    size: int = 3
    seconds: float = 60.0
    fault_s: float = 4.0
    pause_s: float = 3.0
    clients: int = 4
    rate: float = 50.0
    program: tuple[str, ...] = PROGRAM
    flags: tuple[str, ...] = ()
    directory: Path = field(default_factory=Path)


@dataclass(slots=True)
class Result:
    """What came of a run. ``left_out``: fault -> why it could not happen here."""

    plan: Plan
    verdicts: list[Verdict]
    records: list[history.Record]
    left_out: dict[str, str]

    @property
    def validity(self) -> Validity:
        return worst(self.verdicts)


def run(plan: Plan, say: Callable[[str], None] = print) -> Result:
    """Carry out a plan; the history is in ``<directory>/history.jsonl`` afterwards."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    with Cluster(
        plan.size, plan.directory / "members", program=plan.program, flags=plan.flags
    ) as cluster:
        cluster.start()
        return asyncio.run(_Run(plan, cluster, say).run())


class _Run:
    def __init__(self, plan: Plan, cluster: Cluster, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.cluster = cluster
        self.say = say
        self.random = Random(plan.seed)
        self.recorder = Recorder()
        self.workloads = [
            WORKLOADS[name](self.recorder, Random(f"{plan.seed}/{name}")) for name in plan.workloads
        ]
        self.left_out: dict[str, str] = {}

    async def run(self) -> Result:
        connections = [Connection(m.name, m.endpoint) for m in self.cluster.members]
        for workload in self.workloads:
            await workload.begin(connections)
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(self._client(number, workload, connections, stop))
            for number, workload in self._clients()
        ]
        sampler = asyncio.create_task(self._sample_forever(connections))
        await self._break_things()
        verdicts = await self._recover()
        stop.set()
        await asyncio.gather(*clients)
        for workload in self.workloads:
            with contextlib.suppress(Failed):
                await workload.end(connections)
        verdicts.append(await self._hashes(connections))
        sampler.cancel()
        for connection in connections:
            await connection.close()
        records = self.recorder.records
        history.write(self.plan.directory / "history.jsonl", records)
        verdicts += self._judge()
        return Result(self.plan, verdicts, records, self.left_out)

    # Clients.

    def _clients(self) -> list[tuple[int, Workload]]:
        pairs = [w for w in self.workloads for _ in range(self.plan.clients)]
        return list(enumerate(pairs))

    async def _client(
        self,
        number: int,
        workload: Workload,
        connections: Sequence[Connection],
        stop: asyncio.Event,
    ) -> None:
        random = Random(f"{self.plan.seed}/client/{number}")
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            await workload.step(number, random.choice(connections))
            due = max(due + random.expovariate(self.plan.rate), loop.time() - 1.0)
            wait = due - loop.time()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait)

    async def _sample_forever(self, connections: Sequence[Connection]) -> None:
        async def ask(connection: Connection) -> dict[str, object]:
            try:
                status = await connection.call("status", timeout_s=SAMPLE_S)
            except Failed as failure:
                return {"error": str(failure)}
            return {
                "leader": f"{status.leader:x}",
                "id": f"{status.header.member_id:x}",
                "term": status.raftTerm,
                "revision": status.header.revision,
                "applied": status.raftAppliedIndex,
            }

        while True:
            now = self.recorder.now()
            answers = await asyncio.gather(*map(ask, connections))
            names = [connection.name for connection in connections]
            self.recorder.records.append(Sample(now, dict(zip(names, answers, strict=True))))
            await asyncio.sleep(SAMPLE_S)

    # Faults.

    async def _break_things(self) -> None:
        kinds = []
        for name in self.plan.faults:
            why = FAULTS[name].available(self.cluster)
            if why:
                self.left_out[name] = why
                self.say(f"left out: {name} ({why})")
            else:
                kinds.append(FAULTS[name])
        loop = asyncio.get_running_loop()
        end = loop.time() + self.plan.seconds
        queue: list[type[Fault]] = []
        await self._pause()
        while kinds and loop.time() < end:
            if not queue:  # each kind once before any comes again
                queue = kinds.copy()
                self.random.shuffle(queue)
            await self._one_fault(queue.pop())
            await self._pause()
        if not kinds:
            await asyncio.sleep(max(0.0, end - loop.time()))

    async def _pause(self) -> None:
        await asyncio.sleep(self.random.uniform(0.5, 1.5) * self.plan.pause_s)

    async def _one_fault(self, kind: type[Fault]) -> None:
        fault = kind(self.cluster, self.random)
        record = self.recorder.fault(kind.name, [])
        done = await asyncio.to_thread(fault.begin)
        record.targets, record.detail = done.targets, done.detail
        self.say(f"{record.start / 1e9:7.1f} s  {kind.name} {' '.join(done.targets)} {done.detail}")
        await asyncio.sleep(self.random.uniform(0.5, 1.5) * self.plan.fault_s)
        await asyncio.to_thread(fault.end, done)
        record.end, record.effect, record.detail = self.recorder.now(), done.effect, done.detail
        with contextlib.suppress(NotInTime, MemberEnded):  # the end of the run looks again
            await asyncio.to_thread(self.cluster.wait_ready)

    # The end.

    async def _recover(self) -> list[Verdict]:
        self.cluster.heal()
        try:
            for i, member in enumerate(self.cluster.members):
                if not member.running:
                    await asyncio.to_thread(self.cluster.start, i, wait=False)
            await asyncio.to_thread(self.cluster.wait_ready, timeout_s=RECOVERY_S)
        except (NotInTime, MemberEnded) as error:
            finding = Finding("no recovery", str(error))
            return [Verdict("recovery", Validity.INVALID, 0, [finding])]
        return [Verdict("recovery", Validity.VALID)]

    async def _hashes(self, connections: Sequence[Connection]) -> Verdict:
        """Equal revision and equal compaction, equal hash (JEP-11)."""
        try:
            revision = (await connections[0].call("range", key=b"health")).header.revision
            for connection in connections:  # each member applies what is there
                await connection.call("range", key=b"health", timeout_s=30.0)
            answers = [
                await connection.call("hash_kv", revision=revision, timeout_s=60.0)
                for connection in connections
            ]
        except Failed as failure:
            return Verdict("hashes", Validity.UNKNOWN, note=str(failure))
        hashes = {(a.hash, a.compact_revision) for a in answers}
        if len({compacted for _, compacted in hashes}) > 1:
            return Verdict("hashes", Validity.UNKNOWN, note="a compaction came in between")
        if len(hashes) > 1:
            text = f"members differ at revision {revision}: {sorted(hashes)}"
            return Verdict("hashes", Validity.INVALID, 0, [Finding("members differ", text)])
        return Verdict("hashes", Validity.VALID, len(answers))

    def _judge(self) -> list[Verdict]:
        return [self._logs(), *judge(self.recorder.records, self.workloads)]

    def _logs(self) -> Verdict:
        """No member printed a traceback or a fatal error."""
        findings = [
            Finding("crash in the log", f"{member.name}: {found[0].decode()}")
            for member in self.cluster.members
            if (found := _CRASH.search(member.log_path.read_bytes()))
        ]
        return Verdict("logs", Validity.INVALID if findings else Validity.VALID, 0, findings)


__all__ = ["Plan", "Result", "run"]
