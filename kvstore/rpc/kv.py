"""The KV service: checks, proposes, and reads when the local state is fresh enough.

Writes go to the log as the client's own message; reads never enter it (RNG-28). Long ranges are
made in slices between which the event loop runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from kvstore.apply.kv import (
    check_delete_range,
    check_put,
    check_range,
    check_txn,
    range_body_steps,
)
from kvstore.apply.quota import put_cost, txn_cost
from kvstore.apply.txn import is_read_only_txn, is_serializable_txn, read_only_txn_steps
from kvstore.errors import LEADER_CHANGED, EtcdError
from kvstore.histogram import FAST_S
from kvstore.mvcc.steps import Steps
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call, Timing

Body = tuple[int, bytes]
"""(header revision, response without its header field)."""


class KVService:
    """Range, Put, DeleteRange, Txn and Compact.

    Attributes:
        range_times: of ranges carried out, without their wait for the read index.
        read_only_txn_times: of transactions that were not proposed, from arrival to answer.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.range_times = Timing(FAST_S)
        self.read_only_txn_times = Timing()

    def put(self, call: Call, request: rpc_pb2.PutRequest) -> Awaitable[bytes]:
        core = self._core
        if core.member.quota.exceeded(put_cost(request)):
            return core.no_space()
        check_put(request)
        return core.propose(Kind.PUT, request.SerializeToString())

    def delete_range(self, call: Call, request: rpc_pb2.DeleteRangeRequest) -> Awaitable[bytes]:
        core = self._core
        check_delete_range(request)
        return core.propose(Kind.DELETE_RANGE, request.SerializeToString())

    def range(self, call: Call, request: rpc_pb2.RangeRequest) -> bytes | Awaitable[bytes]:
        check_range(request)
        steps = range_body_steps
        if request.serializable:
            return self._run(steps(self._core.store, request))
        return self._when_fresh(lambda: steps(self._core.store, request))

    def txn(self, call: Call, request: rpc_pb2.TxnRequest) -> bytes | Awaitable[bytes]:
        core = self._core
        if core.member.quota.exceeded(txn_cost(request)):
            return core.no_space()
        check_txn(request, core.max_txn_ops)
        if not is_read_only_txn(request):
            return core.propose(Kind.TXN, request.SerializeToString())
        return self._read_only_txn(request)

    async def _read_only_txn(self, request: rpc_pb2.TxnRequest) -> bytes:
        began = perf_counter()
        observed = self.read_only_txn_times.failed
        try:
            if not is_serializable_txn(request):
                await self._core.fresh()
            steps = read_only_txn_steps(self._core.store, request)
            try:
                next(steps)
            except StopIteration as end:
                body = end.value
            else:
                body = await self._rest(steps)
            observed = self.read_only_txn_times.ok
            return self._encode(body)
        finally:
            observed.observe(perf_counter() - began)

    async def compact(self, call: Call, request: rpc_pb2.CompactionRequest) -> bytes:
        core = self._core
        failure: EtcdError | None = None
        response = b""
        try:
            response = await core.propose(Kind.COMPACT, request.SerializeToString())
        except EtcdError as error:
            failure = error
        if request.physical:
            await core.compacted()
        if failure is not None:
            raise failure
        return response

    def _encode(self, body: Body) -> bytes:
        return self._core.header(body[0]) + body[1]

    def _run(self, steps: Steps[Body]) -> bytes | Awaitable[bytes]:
        """Run a read; one that is not done in its first slice goes on between other events."""
        began = perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            self.range_times.ok.observe(perf_counter() - began)
            return self._encode(end.value)
        except EtcdError:
            self.range_times.failed.observe(perf_counter() - began)
            raise
        return self._run_on(steps, began)

    async def _run_on(self, steps: Steps[Body], began: float) -> bytes:
        body = await self._rest(steps)
        self.range_times.ok.observe(perf_counter() - began)
        return self._encode(body)

    async def _rest(self, steps: Steps[Body]) -> Body:
        """Run all slices but the first, between other events."""
        installs = self._core.installs
        while True:
            await asyncio.sleep(0)
            if self._core.installs != installs:
                raise LEADER_CHANGED  # a snapshot replaced what was being read; try again
            try:
                next(steps)
            except StopIteration as end:
                body: Body = end.value
                return body

    def _when_fresh(self, make: Callable[[], Steps[Body]]) -> Awaitable[bytes]:
        """Read when the local state is fresh: short reads are answered without another task."""
        core = self._core
        future: asyncio.Future[bytes] = core.loop.create_future()

        def read(error: EtcdError | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(EtcdError(error.code, error.message))
                return
            try:
                answer = self._run(make())
            except EtcdError as failure:
                future.set_exception(EtcdError(failure.code, failure.message))
                return
            except Exception as failure:  # its caller's alone: others wait on the same round
                future.set_exception(failure)
                return
            if isinstance(answer, bytes):
                future.set_result(answer)
            else:
                _chain(asyncio.ensure_future(answer), future)

        core.member.read_index(read)
        return future


def _chain(task: asyncio.Future[bytes], future: asyncio.Future[bytes]) -> None:
    """Let the outcome of the task become the future's, and the future's cancellation the task's."""

    def finished(done: asyncio.Future[bytes]) -> None:
        if future.done() or done.cancelled():
            return
        error = done.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())

    task.add_done_callback(finished)
    future.add_done_callback(lambda f: task.cancel() if f.cancelled() else None)
