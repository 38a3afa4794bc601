"""Registers: read, write and compare-and-set of single keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jepsen.chaos.client import Connection
from jepsen.chaos.recorder import blank
from jepsen.checkers import linearizable, revisions
from jepsen.history import Op
from jepsen.verdict import Verdict
from jepsen.workloads.base import Workload
from kvstore.pb import rpc_pb2

KEYS = 8
OPS_PER_KEY = 2000
"""After so many operations a key is left for a fresh one, which bounds the search's cost."""


class Register(Workload):
    """Reads, writes and compare-and-set of single keys.

    Values are numbers that no one else writes, so that a read names the write it saw.
    """

    name = "register"
    _count = 0

    async def step(self, client: int, connection: Connection) -> None:
        self._count += 1
        generation = self._count // (KEYS * OPS_PER_KEY)
        key = f"register/{generation}/{self.random.randrange(KEYS)}"
        f = self.random.choice(("read", "read", "write", "cas"))
        if f == "read":
            op = blank(client, self.name, "read", key, None, connection.name)
            await self.recorder.op(op, lambda o: self._read(o, connection))
        elif f == "write":
            op = blank(client, self.name, "write", key, self._count, connection.name)
            await self.recorder.op(op, lambda o: self._write(o, connection))
        else:
            seen = blank(client, self.name, "read", key, None, connection.name)
            await self.recorder.op(seen, lambda o: self._read(o, connection))
            expected = seen.result[0] if seen.result else None
            if isinstance(expected, str):
                return  # nobody's value: the read says so already
            value = [expected, self._count]
            op = blank(client, self.name, "cas", key, value, connection.name)
            await self.recorder.op(op, lambda o: self._cas(o, connection))

    async def _read(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("range", key=op.key.encode())
        op.revision = answer.header.revision
        op.result = [None, 0]
        for kv in answer.kvs:
            op.result = [_value(kv.value), kv.mod_revision]

    async def _write(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("put", key=op.key.encode(), value=b"%d" % op.value)
        op.revision = answer.header.revision

    async def _cas(self, op: Op, connection: Connection) -> None:
        expected, new = op.value
        key = op.key.encode()
        answer = await connection.call(
            "txn",
            compare=[_equals(key, expected)],
            success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"%d" % new))],
        )
        op.result, op.revision = bool(answer.succeeded), answer.header.revision

    async def end(self, connections: Sequence[Connection]) -> None:
        keys = sorted({op.key for op in self.recorder.ops() if op.workload == self.name})
        for connection in connections:
            for key in keys:
                op = blank(-1, self.name, "read", key, None, connection.name)
                await self.recorder.op(op, lambda o, c=connection: self._read(o, c))  # type: ignore[misc]

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        return [linearizable.check(ops), revisions.check(ops)]


def _value(stored: bytes) -> int | str:
    """A value as it was written; a broken server's may be no number, which the checkers tell."""
    return int(stored) if stored.isdigit() else stored.decode(errors="backslashreplace")


def _equals(key: bytes, expected: int | None) -> Any:
    if expected is None:
        return rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.VERSION, version=0)
    return rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.VALUE, value=b"%d" % expected)
