"""Writers, and watchers that must all see the same thing once and in order, resuming for ever."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.recorder import Recorder, blank
from jepsen.checkers import watch
from jepsen.history import Fault, Op, Outcome, Record
from jepsen.verdict import Validity, Verdict
from jepsen.workloads.base import Workload
from kvstore.pb import kv_pb2, rpc_pb2

KEYS = 6
WATCHERS = 6
PREFIX = "watch/"
LAST = "watch/~last"
RETRY_S = 0.1
FOREVER = 1 << 62
FINISH_S = 60.0
"""How long watchers may take to see the last write after everything was healed."""


class Watch(Workload):
    """Clients put and delete; watchers follow the same prefix, on all members in turn."""

    name = "watch"

    def __init__(self, recorder: Recorder, random: Any) -> None:
        super().__init__(recorder, random)
        self._count = 0

    async def begin(self, connections: Sequence[Connection]) -> None:
        for number in range(WATCHERS):
            follow = self._follow(number, connections)
            self._tasks.append(asyncio.create_task(follow))

    async def step(self, client: int, connection: Connection) -> None:
        key = f"{PREFIX}{self.random.randrange(KEYS)}"
        if self.random.random() < 0.2:
            op = blank(client, self.name, "delete", key, None, connection.name)
            await self.recorder.op(op, lambda o: self._delete(o, connection))
            return
        self._count += 1
        if self.random.random() < 0.2:
            await self._put_some(client, connection)
            return
        op = blank(client, self.name, "put", key, str(self._count), connection.name)
        await self.recorder.op(op, lambda o: self._put(o, connection))

    async def _put(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("put", key=op.key.encode(), value=op.value.encode())
        op.revision = answer.header.revision

    async def _put_some(self, client: int, connection: Connection) -> None:
        """Several keys at one revision, which no response may tear apart: an operation a key."""
        numbers = self.random.sample(range(KEYS), self.random.randint(2, KEYS))
        value = str(self._count)
        ops = [
            blank(client, self.name, "put", f"{PREFIX}{number}", value, connection.name)
            for number in numbers
        ]

        async def put(first: Op) -> None:
            puts = [
                rpc_pb2.RequestOp(
                    request_put=rpc_pb2.PutRequest(key=op.key.encode(), value=value.encode())
                )
                for op in ops
            ]
            answer = await connection.call("txn", success=puts)
            first.revision = answer.header.revision

        first = ops[0]
        try:
            await self.recorder.op(first, put)
        finally:  # of one that is cancelled all keys may be written
            for op in ops[1:]:
                op.start, op.end, op.outcome = first.start, first.end, first.outcome
                op.revision, op.error = first.revision, first.error
            self.recorder.records += ops[1:]

    async def _delete(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("delete", key=op.key.encode())
        op.revision = answer.header.revision
        op.result = bool(answer.deleted)

    async def _follow(self, number: int, connections: Sequence[Connection]) -> None:
        """Watch from revision 1 on, on another member after each break, behind what was seen."""
        next_revision, turn = 1, number
        finished = False
        while not finished:
            connection = connections[turn % len(connections)]
            turn += 1
            client = 1000 + number
            op = blank(client, self.name, "watch", PREFIX, [next_revision], connection.name)
            op.result = []
            op.start = self.recorder.now()
            try:
                next_revision, finished = await self._stream(op, connection, next_revision)
            finally:  # also of one that never saw the end
                op.end, op.outcome = self.recorder.now(), Outcome.INFO
                self.recorder.records.append(op)
            await asyncio.sleep(RETRY_S)

    async def _stream(self, op: Op, connection: Connection, next_revision: int) -> tuple[int, bool]:
        """Follow one stream to its end or to the last write; return where to go on, and whether
        that was the last."""
        create = rpc_pb2.WatchCreateRequest(
            key=PREFIX.encode(),
            range_end=PREFIX[:-1].encode() + b"0",
            start_revision=next_revision,
            prev_kv=True,
            progress_notify=True,
        )
        try:
            async for response in connection.watch(create):
                if response.canceled:
                    return max(next_revision, int(response.compact_revision)), False
                if response.created:
                    continue
                events = [event_record(event) for event in response.events]
                op.result.append([response.header.revision, events])
                shown = events[-1][0] if events else response.header.revision
                next_revision = max(next_revision, shown + 1)
                if events and events[-1][2] == LAST:
                    return next_revision, True
        except Failed:
            pass
        return next_revision, False

    async def end(self, connections: Sequence[Connection]) -> None:
        """One last write, which every watcher must get to see."""
        op = blank(-1, self.name, "put", LAST, "", connections[0].name)
        op.start = self.recorder.now()
        answer = await connections[0].call("put", key=LAST.encode(), value=b"", timeout_s=30.0)
        op.end = self.recorder.now()
        op.outcome, op.revision = Outcome.OK, answer.header.revision
        self.recorder.records.append(op)
        await asyncio.wait(self._tasks, timeout=FINISH_S)
        await self.stop()

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        verdict = watch.check(ops, compactions=compactions(self.recorder.records))
        streams = [op for op in ops if op.workload == self.name and op.f == "watch"]
        verdict.add(watch.check_jumps(streams, compactions(self.recorder.records)))
        last = next((op for op in ops if op.workload == self.name and op.key == LAST), None)
        if last is not None:
            verdict.add(watch.check_caught_up(streams, last))
        elif verdict.validity is Validity.VALID:
            verdict.validity, verdict.note = Validity.UNKNOWN, "the last write failed"
        return [verdict]


def compactions(records: Iterable[Record]) -> list[int]:
    """All revisions that a run compacted at, as its faults tell."""
    found = []
    for record in records:
        if isinstance(record, Fault) and "compact" in record.name + record.detail:
            at = re.search(r"\bat (\d+)", record.detail)
            found.append(int(at[1]) if at else FOREVER)
    return found


def event_record(event: kv_pb2.Event) -> list[Any]:
    """An event as it is in a history (see `checkers.watch`)."""
    kv = event.kv
    put = event.type == kv_pb2.Event.PUT
    previous = event.prev_kv.value.decode() if event.HasField("prev_kv") else None
    return [
        kv.mod_revision,
        "PUT" if put else "DELETE",
        kv.key.decode(),
        kv.value.decode() if put else None,
        kv.version,
        kv.create_revision,
        previous,
    ]
