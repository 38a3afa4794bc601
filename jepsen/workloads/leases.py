"""Leases that are renewed or left to expire, and locks whose writes are fenced by revision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.recorder import blank
from jepsen.checkers.leases import check_leases, check_locks
from jepsen.history import Op, Outcome
from jepsen.verdict import Verdict
from jepsen.workloads.base import Workload
from kvstore.pb import rpc_pb2

TTL_S = 3
LOCKS = 2
LOCK_TTL_S = 4


class Lease(Workload):
    """Each client keeps one lease with one key: renews it, looks, lets it go, takes another."""

    name = "lease"
    min_ops = 30

    def __init__(self, recorder: Any, random: Any) -> None:
        super().__init__(recorder, random)
        self._held: dict[int, int] = {}

    async def step(self, client: int, connection: Connection) -> None:
        lease = self._held.get(client)
        if lease is None:
            await self._grant(client, connection)
            return
        f = self.random.choices(("renew", "look", "wait", "revoke"), (5, 6, 2, 0.5))[0]
        if f == "wait":
            await asyncio.sleep(self.random.uniform(0.5, TTL_S * 1.5))
            f = "look"
        op = blank(client, self.name, f, str(lease), TTL_S, connection.name)
        work = {"renew": self._renew, "look": self._look, "revoke": self._revoke}[f]
        await self.recorder.op(op, lambda o: work(o, connection))
        gone = (f == "look" and op.result is False) or (f == "renew" and op.result == 0)
        if gone or f == "revoke":
            if self.random.random() < 0.5:  # is it gone for good?
                again = blank(client, self.name, "look", str(lease), None, connection.name)
                await self.recorder.op(again, lambda o: self._look(o, connection))
            del self._held[client]

    async def _grant(self, client: int, connection: Connection) -> None:
        lease = self.random.getrandbits(62) + 1
        op = blank(client, self.name, "grant", str(lease), TTL_S, connection.name)

        async def grant(op: Op) -> None:
            answer = await connection.call("grant", ID=lease, TTL=TTL_S)
            op.result, op.revision = answer.TTL, answer.header.revision
            for key in (_key(lease), *_more_keys(lease)):
                await connection.call("put", key=key, value=b"x", lease=lease)

        await self.recorder.op(op, grant)
        if op.outcome is Outcome.OK:
            self._held[client] = lease

    async def _renew(self, op: Op, connection: Connection) -> None:
        op.result = await connection.renew(int(op.key))

    async def _look(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("range", key=_key(int(op.key)))
        op.result, op.revision = bool(answer.kvs), answer.header.revision

    async def _revoke(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("revoke", ID=int(op.key))
        op.revision = answer.header.revision

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        return [check_leases(ops)]


def _key(lease: int) -> bytes:
    return b"lease/%d" % lease


def _more_keys(lease: int) -> list[bytes]:
    """Nobody looks at them, but members must delete all keys of a lease in one order."""
    return [_key(lease) + suffix for suffix in (b"/a", b"/b")]


@dataclass(slots=True)
class _Hold:
    name: str
    key: bytes
    lease: int
    create_revision: int


class Lock(Workload):
    """Clients take a lock as etcd's clients do, write under its guard, and release it.

    The shared value is put by a transaction guarded by the owner key's create revision (fencing):
    a holder whose lease is gone must not get a write through.
    """

    name = "lock"
    min_ops = 20

    def __init__(self, recorder: Any, random: Any) -> None:
        super().__init__(recorder, random)
        self._held: dict[int, _Hold] = {}

    async def step(self, client: int, connection: Connection) -> None:
        hold = self._held.get(client)
        if hold is None:
            name = f"lock/{self.random.randrange(LOCKS)}"
            op = blank(client, self.name, "acquire", name, None, connection.name)
            await self.recorder.op(op, lambda o: self._acquire(o, client, connection))
            return
        if self.random.random() < 0.7:
            if self.random.random() < 0.1:
                await asyncio.sleep(LOCK_TTL_S * 1.5)  # the holder was paused: its lock may be gone
            value = hold.create_revision
            op = blank(client, self.name, "guarded_write", hold.name, value, connection.name)
            await self.recorder.op(op, lambda o: self._write(o, hold, connection))
            if op.result is False:
                del self._held[client]
            return
        op = blank(client, self.name, "release", hold.name, None, connection.name)
        await self.recorder.op(op, lambda o: self._release(o, hold, connection))
        del self._held[client]

    async def _acquire(self, op: Op, client: int, connection: Connection) -> None:
        granted = await connection.call("grant", TTL=LOCK_TTL_S)
        key = f"{op.key}/{granted.ID:x}".encode()
        put = rpc_pb2.PutRequest(key=key, lease=granted.ID)
        prefix = op.key.encode() + b"/"
        answer = await connection.call(
            "txn",
            compare=[rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.CREATE, create_revision=0)],
            success=[rpc_pb2.RequestOp(request_put=put)],
        )
        mine = answer.header.revision
        while True:
            owners = await connection.call(
                "range",
                key=prefix,
                range_end=prefix[:-1] + b"0",
                sort_target=rpc_pb2.RangeRequest.CREATE,
                sort_order=rpc_pb2.RangeRequest.ASCEND,
                limit=1,
            )
            if not owners.kvs or owners.kvs[0].create_revision > mine:
                raise Failed(Outcome.FAIL, "the lease ran out while waiting")
            if owners.kvs[0].key == key:
                break
            if await connection.renew(granted.ID) == 0:
                raise Failed(Outcome.FAIL, "the lease ran out while waiting")
            await asyncio.sleep(0.1)
        op.result, op.revision = [key.decode(), mine], mine
        self._held[client] = _Hold(op.key, key, granted.ID, mine)

    async def _write(self, op: Op, hold: _Hold, connection: Connection) -> None:
        guard = rpc_pb2.Compare(
            key=hold.key, target=rpc_pb2.Compare.CREATE, create_revision=hold.create_revision
        )
        put = rpc_pb2.PutRequest(key=b"guarded/" + hold.name.encode(), value=hold.key)
        answer = await connection.call(
            "txn", compare=[guard], success=[rpc_pb2.RequestOp(request_put=put)]
        )
        op.result, op.revision = bool(answer.succeeded), answer.header.revision

    async def _release(self, op: Op, hold: _Hold, connection: Connection) -> None:
        answer = await connection.call("revoke", ID=hold.lease)
        op.revision = answer.header.revision

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        return [check_locks(ops)]
