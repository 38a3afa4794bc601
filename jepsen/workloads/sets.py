"""A set that only grows, and a bank whose sum never changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.recorder import blank
from jepsen.checkers.sets import check_bank, check_set
from jepsen.history import Op, Outcome
from jepsen.verdict import Verdict
from jepsen.workloads.base import Workload
from kvstore.pb import rpc_pb2

_SET = b"set/"
_SET_END = b"set0"
READ_EVERY = 200
"""A read of the whole set comes after about so many adds."""

ACCOUNTS = 5
START_BALANCE = 100


class Set(Workload):
    """Each element is a key of its own, so an add is one put."""

    name = "set"
    _count = 0

    async def step(self, client: int, connection: Connection) -> None:
        self._count += 1
        if self._count % READ_EVERY == 0:
            await self._read(client, connection)
            return
        op = blank(client, self.name, "add", "", self._count, connection.name)
        await self.recorder.op(op, lambda o: self._add(o, connection))

    async def _add(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("put", key=_SET + b"%08d" % op.value, value=b"x")
        op.revision = answer.header.revision

    async def _read(self, client: int, connection: Connection) -> None:
        async def read(op: Op) -> None:
            answer = await connection.call("range", key=_SET, range_end=_SET_END, keys_only=True)
            # A broken server may answer with a key that nobody wrote, even an empty one.
            op.result = [int(kv.key[len(_SET) :] or b"-1") for kv in answer.kvs]
            op.revision = answer.header.revision

        op = blank(client, self.name, "read", "", None, connection.name)
        await self.recorder.op(op, read)

    async def end(self, connections: Sequence[Connection]) -> None:
        for connection in connections:
            await self._read(-1, connection)

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        return [check_set(ops)]


class Bank(Workload):
    """Transfers between accounts by guarded transactions over two keys."""

    name = "bank"

    async def begin(self, connections: Sequence[Connection]) -> None:
        puts = [_put(i, START_BALANCE) for i in range(ACCOUNTS)]
        await connections[0].call("txn", success=puts, timeout_s=30.0)

    async def step(self, client: int, connection: Connection) -> None:
        if self.random.random() < 0.5:
            op = blank(client, self.name, "read", "", None, connection.name)
            await self.recorder.op(op, lambda o: self._read(o, connection))
            return
        one, other = self.random.sample(range(ACCOUNTS), 2)
        value = [one, other, self.random.randint(1, 20)]
        op = blank(client, self.name, "transfer", "", value, connection.name)
        await self.recorder.op(op, lambda o: self._transfer(o, connection))

    async def _read(self, op: Op, connection: Connection) -> None:
        answer = await connection.call("range", key=b"bank/", range_end=b"bank0")
        op.result = {kv.key.decode(): int(kv.value or b"0") for kv in answer.kvs}
        op.revision = answer.header.revision

    async def _transfer(self, op: Op, connection: Connection) -> None:
        source, target, amount = op.value
        try:
            answer = await connection.call("range", key=b"bank/", range_end=b"bank0")
        except Failed as failure:
            raise Failed(Outcome.FAIL, str(failure)) from None  # nothing was written yet
        accounts = {kv.key: kv for kv in answer.kvs}
        keys = [_account(source), _account(target)]
        left, right = (int(accounts[key].value) for key in keys)
        if left < amount:
            raise Failed(Outcome.FAIL, "not enough money")
        guards = [
            rpc_pb2.Compare(
                key=key, target=rpc_pb2.Compare.MOD, mod_revision=accounts[key].mod_revision
            )
            for key in keys
        ]
        puts = [_put(source, left - amount), _put(target, right + amount)]
        answer = await connection.call("txn", compare=guards, success=puts)
        op.result, op.revision = bool(answer.succeeded), answer.header.revision

    async def end(self, connections: Sequence[Connection]) -> None:
        for connection in connections:
            op = blank(-1, self.name, "read", "", None, connection.name)
            await self.recorder.op(op, lambda o, c=connection: self._read(o, c))  # type: ignore[misc]

    def judge(self, ops: Sequence[Op]) -> list[Verdict]:
        return [check_bank(ops, total=ACCOUNTS * START_BALANCE)]


def _account(number: int) -> bytes:
    return b"bank/%d" % number


def _put(number: int, balance: int) -> Any:
    request = rpc_pb2.PutRequest(key=_account(number), value=b"%d" % balance)
    return rpc_pb2.RequestOp(request_put=request)
