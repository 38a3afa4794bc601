"""Lists under several keys, appended to and read in transactions.

A list is kept as text in its key. Reading and appending in one transaction needs to know the value:
the transaction is guarded by the mod_revisions that were read before it, as STM clients do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.recorder import blank
from jepsen.checkers import append
from jepsen.history import Op, Outcome
from jepsen.verdict import Verdict
from jepsen.workloads.base import Workload
from kvstore.pb import rpc_pb2

KEYS = 6
APPENDS_PER_KEY = 60
"""After so many a key is left for a fresh one: a list is read and written whole."""
STEPS = 4
LAST_READS = 128
"""Reads of one transaction of the last look: as many as the server allows (--max-txn-ops)."""


class Append(Workload):
    """Transactions of a few appends to lists and reads of them."""

    name = "append"
    _count = 0

    async def step(self, client: int, connection: Connection) -> None:
        steps: list[list[Any]] = []
        for _ in range(self.random.randint(1, STEPS)):
            generation = self._count // (KEYS * APPENDS_PER_KEY)
            key = f"append/{generation}/{self.random.randrange(KEYS)}"
            if self.random.random() < 0.5:
                self._count += 1
                steps.append(["append", key, self._count])
            else:
                steps.append(["r", key, None])
        op = blank(client, self.name, "txn", "", steps, connection.name)
        await self.recorder.op(op, lambda o: self._txn(o, connection))

    async def _txn(self, op: Op, connection: Connection) -> None:
        keys = sorted({key for _, key, _ in op.value})
        try:
            lists, revisions = await self._lists(keys, connection)
        except Failed as failure:
            raise Failed(Outcome.FAIL, str(failure)) from None  # nothing was written yet
        result, changed = [], set()
        for f, key, element in op.value:
            if f == "append":
                lists[key] = [*lists[key], element]
                changed.add(key)
            result.append([f, key, element if f == "append" else lists[key]])
        answer = await connection.call(
            "txn",
            compare=[
                rpc_pb2.Compare(
                    key=key.encode(), target=rpc_pb2.Compare.MOD, mod_revision=revisions[key]
                )
                for key in keys
            ],
            success=[_put(key, lists[key]) for key in sorted(changed)],
        )
        op.revision = answer.header.revision
        if not answer.succeeded:
            raise Failed(Outcome.FAIL, "another transaction came between")
        op.result = result

    async def _lists(
        self, keys: list[str], connection: Connection
    ) -> tuple[dict[str, list[Any]], dict[str, int]]:
        ops = [
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key.encode())) for key in keys
        ]
        answer = await connection.call("txn", success=ops)
        lists: dict[str, list[Any]] = {}
        revisions: dict[str, int] = {}
        for key, response in zip(keys, answer.responses, strict=True):
            kvs = response.response_range.kvs
            lists[key] = json.loads(kvs[0].value) if kvs else []
            revisions[key] = kvs[0].mod_revision if kvs else 0
        return lists, revisions

    async def end(self, connections: Sequence[Connection]) -> None:
        keys = sorted({key for op in self._own() for _, key, _ in op.value})
        for connection in connections:
            for first in range(0, len(keys), LAST_READS):
                steps = [["r", key, None] for key in keys[first : first + LAST_READS]]
                op = blank(-1, self.name, "txn", "", steps, connection.name)
                await self.recorder.op(op, lambda o, c=connection: self._txn(o, c))  # type: ignore[misc]

    def _own(self) -> list[Op]:
        return [op for op in self.recorder.ops() if op.workload == self.name]

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        return [append.check(ops)]


def _put(key: str, elements: list[Any]) -> Any:
    value = json.dumps(elements, separators=(",", ":")).encode()
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key.encode(), value=value))
