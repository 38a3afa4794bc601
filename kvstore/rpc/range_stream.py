"""KV.RangeStream: a range in parts, for clients that list much (RST-01..08).

One part is in the making at a time, and the next is read when the client has taken enough of those
before, so a stream costs memory for one part however large the range is. A reader that is too slow
for the cluster's compactions is told so (RST-06); it never holds them up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.apply.kv import check_range_stream, encode_range
from kvstore.errors import LEADER_CHANGED
from kvstore.mvcc.keyvalue import length_delimited
from kvstore.mvcc.range import Part, Range, range_parts
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call, single_request

Send = Callable[[bytes], Awaitable[None]]


class RangeStreamService:
    """The one streaming method of KV."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def range_stream(
        self, call: Call, requests: AsyncIterator[rpc_pb2.RangeRequest], send: Send
    ) -> None:
        """Send the parts of a range, of which the last alone has header, more and count (RST-03).

        Raises:
            EtcdError: what the checks raise; FUTURE_REV; COMPACTED (RST-06); LEADER_CHANGED when a
                snapshot took the store's place: what was sent cannot be continued.
        """
        core = self._core
        request = await single_request(requests)
        check_range_stream(request)
        if not request.serializable:
            await core.fresh()
        core.store.ranges += 1
        revision, installs = core.store.revision, core.installs
        for part in range_parts(core.store, request):
            if part.last or part.key_values:
                await send(self._encode(part, revision))
            # What is sent without waiting must not keep others waiting.
            await asyncio.sleep(0)
            if core.installs != installs:
                raise LEADER_CHANGED

    def _encode(self, part: Part, revision: int) -> bytes:
        header = self._core.header(revision) if part.last else b""
        body = encode_range(Range(part.key_values, part.more, part.count, revision))
        return length_delimited(b"\n", header + body)
