"""What kube-apiserver does: guarded writes of objects, and caches that list and watch for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.recorder import Recorder, blank
from jepsen.checkers import kube
from jepsen.history import Op, Outcome
from jepsen.verdict import Verdict
from jepsen.workloads.base import Workload
from jepsen.workloads.watch import compactions, event_record
from kvstore.pb import rpc_pb2

PODS = "kube/pods/"
EVENTS = kube.LEASED
ALL = "kube/"
CACHED = (PODS, EVENTS, PODS, ALL)
"""What each cache is of."""
OBJECTS = 25
"""More than one page of them."""
PAGE = 10
EVENT_TTL_S = 5
EVENTS_PER_LEASE = 20
FEWEST_RESPONSES, MOST_RESPONSES = 10, 300
"""A cache leaves its stream after so many responses and goes on elsewhere."""
RESTART = 0.15
"""Share of the breaks after which a cache lists anew."""
AWAY, AWAY_S = 0.2, 6.0
"""Share of the breaks after which a cache is away, and for how long at most: a compaction may
overtake it."""
ASK_S = 0.5
"""Time between two requests for progress."""
RETRY_S = 0.1
FINISH_S = 60.0
"""How long caches may take to reach the last write after everything was healed."""
FIRST_CACHE = 2000
"""Number of the first cache as a client."""


@dataclass(slots=True)
class _Lease:
    id: int
    events: int = 0


class Kube(Workload):
    """Clients create, update and delete; caches follow, on all members in turn."""

    name = "kube"

    def __init__(self, recorder: Recorder, random: Any) -> None:
        super().__init__(recorder, random)
        self._count = 0
        self._last = 0
        """Revision of the last write, once it was made."""
        self._known: dict[tuple[int, str], int] = {}
        """(client, key) -> mod_revision as that client knows it; 0: not there."""
        self._leases: dict[int, _Lease] = {}

    # Writers.

    async def step(self, client: int, connection: Connection) -> None:
        self._count += 1
        if self.random.random() < 0.2:
            await self._event(client, connection)
            return
        key = f"{PODS}{self.random.randrange(OBJECTS):02d}"
        guard = self._known.pop((client, key), 0)
        value = f"v{self._count}"
        if not guard:
            op = blank(client, self.name, "create", key, value, connection.name)
        elif self.random.random() < 0.25:
            op = blank(client, self.name, "delete", key, [guard], connection.name)
        else:
            op = blank(client, self.name, "update", key, [guard, value], connection.name)
        await self.recorder.op(op, lambda o: _write(o, connection))
        if op.outcome is Outcome.OK:
            gone = op.f == "delete" and op.result[0]
            found = op.revision if op.result[0] else op.result[1]
            self._known[client, key] = 0 if gone else found

    async def _event(self, client: int, connection: Connection) -> None:
        lease = self._leases.get(client)
        if lease is None or lease.events >= EVENTS_PER_LEASE:
            try:
                granted = await connection.call("grant", TTL=EVENT_TTL_S)
            except Failed:
                return
            lease = self._leases[client] = _Lease(granted.ID)
        lease.events += 1
        key = f"{EVENTS}{self._count:06d}"
        op = blank(client, self.name, "create", key, f"e{self._count}", connection.name)
        await self.recorder.op(op, lambda o: _write(o, connection, lease.id))
        if op.outcome is not Outcome.OK:
            del self._leases[client]

    # Caches.

    async def begin(self, connections: Sequence[Connection]) -> None:
        for number, prefix in enumerate(CACHED):
            cache = _Cache(self, FIRST_CACHE + number, prefix, connections)
            self._tasks.append(asyncio.create_task(cache.follow()))

    def finished(self, revision: int) -> bool:
        """Whether a cache at a revision has seen everything."""
        return bool(self._last) and revision >= self._last

    async def end(self, connections: Sequence[Connection]) -> None:
        """One last write of each kind, which the caches must get to see."""
        last = 0
        for prefix in (PODS, EVENTS):
            op = blank(
                -1, self.name, "create", f"{prefix}{kube.LAST}", kube.LAST, connections[0].name
            )
            await self.recorder.op(op, lambda o: _write(o, connections[0]))
            last = max(last, op.revision)
        self._last = last
        await asyncio.wait(self._tasks, timeout=FINISH_S)
        await self.stop()

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        return [kube.check(ops, compactions=compactions(self.recorder.records))]


async def _write(op: Op, connection: Connection, lease: int = 0) -> None:
    """Carry out a guarded write as apiserver does: with a look at the object if it fails."""
    key = op.key.encode()
    compare = rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.MOD, mod_revision=kube.guard_of(op))
    look = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
    if op.f == "delete":
        delete = rpc_pb2.DeleteRangeRequest(key=key)
        change = rpc_pb2.RequestOp(request_delete_range=delete)
    else:
        value = op.value if op.f == "create" else op.value[1]
        put = rpc_pb2.PutRequest(key=key, value=value.encode(), lease=lease)
        change = rpc_pb2.RequestOp(request_put=put)
    answer = await connection.call("txn", compare=[compare], success=[change], failure=[look])
    op.revision, op.result = answer.header.revision, [bool(answer.succeeded)]
    if not answer.succeeded:
        kvs = answer.responses[0].response_range.kvs
        found = [kvs[0].mod_revision, kvs[0].value.decode()] if kvs else [0, None]
        op.result += found


def _object(kv: Any) -> list[Any]:
    value = kv.value.decode()
    return [kv.key.decode(), value, kv.mod_revision, kv.version, kv.create_revision]


class _Cache:
    """A cache of all objects below a prefix. What it holds is left to the checker to rebuild."""

    def __init__(
        self, workload: Kube, client: int, prefix: str, connections: Sequence[Connection]
    ) -> None:
        self._workload = workload
        self._client = client
        self._prefix = prefix
        self._end = prefix[:-1].encode() + b"0"
        self._connections = connections
        self._revision = 0
        """All up to this one was seen."""

    async def follow(self) -> None:
        """List, watch, and go on elsewhere after each break, until the last write was seen."""
        turn, random = self._client, self._workload.random
        listed = False
        while not self._workload.finished(self._revision):
            connection = self._connections[turn % len(self._connections)]
            turn += 1
            if not listed:
                listed = await self._list(connection)
            if listed:
                listed = await self._watch(connection)
            if random.random() < RESTART:
                listed = False
            await asyncio.sleep(random.uniform(0.0, AWAY_S) if random.random() < AWAY else RETRY_S)

    async def _list(self, connection: Connection) -> bool:
        op = blank(self._client, self._workload.name, "list", self._prefix, [PAGE], connection.name)
        await self._workload.recorder.op(op, lambda o: self._pages(o, connection))
        if op.outcome is not Outcome.OK:
            return False
        self._revision = op.revision
        return True

    async def _pages(self, op: Op, connection: Connection) -> None:
        """The first page says at which revision the others are read; compacted, it starts anew."""
        start, revision = self._prefix.encode(), 0
        objects: list[list[Any]] = []
        while True:
            answer = await connection.call(
                "range", key=start, range_end=self._end, limit=PAGE, revision=revision
            )
            revision = revision or answer.header.revision
            objects += map(_object, answer.kvs)
            if not answer.more or not answer.kvs:
                break
            start = answer.kvs[-1].key + b"\0"
        op.result, op.revision = objects, revision

    async def _watch(self, connection: Connection) -> bool:
        """Follow one stream; return whether the cache may go on from where it was."""
        recorder = self._workload.recorder
        start = self._revision + 1
        op = blank(
            self._client, self._workload.name, "watch_cache", self._prefix, [start], connection.name
        )
        op.start, op.result = recorder.now(), []
        create = rpc_pb2.WatchCreateRequest(
            key=self._prefix.encode(),
            range_end=self._end,
            start_revision=start,
            prev_kv=True,
            progress_notify=True,
        )
        left = self._workload.random.randint(FEWEST_RESPONSES, MOST_RESPONSES)
        try:
            async for response in connection.watch(create, ask_s=ASK_S):
                if response.canceled:
                    return not response.compact_revision
                if response.created:
                    continue
                events = [event_record(event) for event in response.events]
                op.result.append([response.header.revision, events])
                seen = events[-1][0] if events else response.header.revision
                self._revision = max(self._revision, seen)
                left -= 1
                if not left or self._workload.finished(self._revision):
                    break
        except Failed as failure:
            op.error = str(failure)
        finally:
            op.end, op.outcome = recorder.now(), Outcome.INFO
            recorder.records.append(op)
        return True
