"""One run: a cluster, its workloads, its faults, the healing, the last look, the verdict.

    start -> clients work -> faults come and go, one after the other -> heal -> every member serves
    -> last reads -> clients' histories are judged, members' hashes compared, logs scanned

A run that proved nothing says so: too few operations, a fault that never hit anything, a workload
without a successful operation make the verdict unknown, never valid.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

import grpc

from jepsen import history
from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.faults import FAULTS, Done, Fault
from jepsen.chaos.faults.clients import ClientFault
from jepsen.chaos.judging import judge
from jepsen.chaos.last_look import compare_hashes, faults_found, scan_logs
from jepsen.chaos.recorder import Recorder
from jepsen.history import Sample
from jepsen.verdict import Finding, Validity, Verdict, worst
from jepsen.workloads import WORKLOADS, Workload
from kvstore.storage.errors import StorageError
from kvstore.testing import Cluster, MemberEnded, NotInTime
from kvstore.testing.namespaces import NamespaceError
from kvstore.testing.processes import PROGRAM

RECOVERY_S = 60.0
"""After the healing every member must serve within this time."""
CLIENTS_S = 60.0
"""Longest time that what a client does may take after that: longer than any lease lives."""
SAMPLE_S = 0.5
HISTORY = "history.jsonl"
ENDED = "a member ended by itself"
_NOT_DONE = (NotInTime, MemberEnded, RuntimeError, OSError, StorageError, grpc.RpcError)
"""What a fault raises that could not be brought about or ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    Attributes:
        seconds: how long faults come and go.
        fault_s, pause_s: mean length of a fault, and of the time between two.
        clients: for each workload.
        rate: operations a second of each client, at most.
        program, flags: what the members run.
        network: what the links are made of, as `Cluster` takes it.
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
    network: Literal["proxies", "namespaces"] = "proxies"
    directory: Path = field(default_factory=Path)


class NotStarted(Exception):
    """The members did not begin to serve: nothing was tried."""


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
    """Carry out a plan; the history is in ``<directory>/history.jsonl`` afterwards, of as far as it
    came, if it is interrupted. Raises NotStarted."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    kinds = [FAULTS[name] for name in plan.faults]
    with ExitStack() as disks, ExitStack() as stack:
        try:
            cluster = stack.enter_context(
                Cluster(
                    plan.size,
                    plan.directory / "members",
                    program=plan.program,
                    flags=plan.flags,
                    network=plan.network,
                    client_links=any(issubclass(kind, ClientFault) for kind in kinds),
                )
            )
            for kind in kinds:
                kind.prepare(cluster, disks)  # which have to outlive the members
            cluster.start()
        except (MemberEnded, NotInTime, NamespaceError, OSError) as error:
            raise NotStarted(str(error)) from error
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
        self.done: list[Done] = []
        self.ended: list[Finding] = []
        self.connections: list[Connection] = []
        """To members that vote now."""
        self.all_connections: list[Connection] = []

    async def run(self) -> Result:
        """The whole run; what was recorded is written whatever ends it."""
        tasks: list[asyncio.Task[None]] = []
        try:
            return await self._run(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for workload in self.workloads:
                await workload.stop()
            for connection in self.all_connections:
                await connection.close()
            history.write(self.plan.directory / HISTORY, self.recorder.records)

    async def _run(self, tasks: list[asyncio.Task[None]]) -> Result:
        connections = self.connections
        self._follow_members()
        for workload in self.workloads:
            await workload.begin(connections)
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(self._client(number, workload, connections, stop))
            for number, workload in self._clients()
        ]
        tasks += [*clients, asyncio.create_task(self._sample_forever(connections))]
        await self._break_things()
        verdicts = await self._recover()
        stop.set()
        verdicts += await _clients_end(clients)
        for workload in self.workloads:
            with contextlib.suppress(Failed):
                await workload.end(connections)
        verdicts.append(await compare_hashes(connections))
        verdicts += self._judge()
        return Result(self.plan, verdicts, self.recorder.records, self.left_out)

    def _follow_members(self) -> None:
        """Let clients know the members that vote now. A connection is closed only at the end: some
        client may be asking."""
        voters = [m for m in self.cluster.members if not (m.removed or m.learner)]
        for member in voters:
            if all(member.name != connection.name for connection in self.all_connections):
                self.all_connections.append(Connection(member.name, member.endpoint))
        names = {member.name for member in voters}
        self.connections[:] = [c for c in self.all_connections if c.name in names]

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
            names = [connection.name for connection in connections]
            answers = await asyncio.gather(*map(ask, connections))
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
        self._look_for_ends()
        fault = kind(self.cluster, self.random)
        record = self.recorder.fault(kind.name, [])
        done = Done([])
        try:
            done = await asyncio.to_thread(fault.begin)
            record.targets, record.detail = done.targets, done.detail
            told = f"{kind.name} {' '.join(done.targets)} {done.detail}"
            self.say(f"{record.start / 1e9:7.1f} s  {told}")
            self._follow_members()
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * self.plan.fault_s)
            await asyncio.to_thread(fault.end, done)
        except _NOT_DONE as error:
            done.targets = record.targets = done.targets or fault.hit
            if isinstance(error, StorageError):  # a kill leaves files that can be opened
                done.findings.append(Finding("unreadable files", str(error)))
            elif isinstance(error, MemberEnded):  # faults expect an end where they bring it about
                done.findings.append(Finding(ENDED, str(error)))
            done.detail = f"{done.detail} did not work: {str(error).partition(chr(10))[0]}"
            self.say(f"           {kind.name}: {done.detail}")
            self._look_for_ends(done.targets if kind.ends_members else ())
            await asyncio.to_thread(self._mend)
        finally:
            fault.abandon()
        self._follow_members()
        self.done.append(done)
        record.end, record.effect, record.detail = self.recorder.now(), done.effect, done.detail
        with contextlib.suppress(NotInTime, MemberEnded):  # the end of the run looks again
            await asyncio.to_thread(self.cluster.wait_ready)

    def _mend(self) -> None:
        """Let all members run, and reach each other; who looks for ends does so before."""
        self.cluster.heal()
        for number in self.cluster.numbers:
            if not self.cluster.members[number].running:
                self.cluster.start(number, wait=False)

    def _look_for_ends(self, but: Sequence[str] = ()) -> None:
        """Between faults all members run: one that does not has ended by itself.

        Args:
            but: names of those that a fault has ended.
        """
        for number in self.cluster.numbers:
            member = self.cluster.members[number]
            if not member.running and member.process is not None and member.name not in but:
                text = f"{member.name} ended with {member.process.returncode}"
                self.ended.append(Finding(ENDED, text))
                self.cluster.start(number, wait=False)

    # The end.

    async def _recover(self) -> list[Verdict]:
        self._look_for_ends()
        self._mend()
        try:
            await asyncio.to_thread(self.cluster.wait_ready, timeout_s=RECOVERY_S)
        except (NotInTime, MemberEnded) as error:
            finding = Finding("no recovery", str(error))
            return [Verdict("recovery", Validity.INVALID, 0, [finding])]
        return [Verdict("recovery", Validity.VALID, len(self.cluster.numbers))]

    def _judge(self) -> list[Verdict]:
        looks = [scan_logs(self.cluster, self.done, self.ended), *faults_found(self.done)]
        if self.plan.faults and not self.done:
            looks.append(Verdict("faults", Validity.UNKNOWN, note="none of those asked for came"))
        return [*looks, *judge(self.recorder.records, self.workloads)]


async def _clients_end(clients: Sequence[asyncio.Task[None]]) -> list[Verdict]:
    """Wait for what clients are at; one that waits for something for ever is a finding."""
    _, late = await asyncio.wait(clients, timeout=CLIENTS_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=bool(late))
    if not late:
        return []
    text = f"{len(late)} of {len(clients)} clients still wait, {CLIENTS_S:g} s after the healing"
    finding = Finding("clients wait in vain", text)
    return [Verdict("clients", Validity.INVALID, len(clients), [finding])]


__all__ = ["Plan", "Result", "run"]
