"""The Election service: the first in a line of keys leads, and its value is what it proclaims
(CON-09..13).

Nothing else is kept about elections: a leader is known by its key and the revision that created it,
and loses its seat with that key (CON-14).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.errors import ELECTION_MISSING_LEADER, ELECTION_NO_LEADER, ELECTION_NOT_LEADER
from kvstore.mvcc.creation import first_created_steps
from kvstore.pb import election_pb2, kv_pb2, rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call, single_request
from kvstore.rpc.waiting import (
    Lines,
    LocalWatch,
    fresh_at_last,
    in_slices,
    interval_of,
    through_a_client,
)

Send = Callable[[list[bytes]], Awaitable[None]]


class ElectionService:
    """Campaign, Proclaim, Leader, Observe and Resign."""

    def __init__(self, core: Core, lines: Lines) -> None:
        self._core = core
        self._lines = lines

    async def campaign(self, call: Call, request: election_pb2.CampaignRequest) -> bytes:
        """Wait to be elected; the header is that of the candidacy (CON-09).

        A candidate that is known proclaims the new value at once (CON-10).

        Raises:
            EtcdError: ELECTION_NOT_LEADER when the lease ended while waiting, and others with
                their text and code Unknown.
        """
        with through_a_client():
            async with self._lines.joined(
                call, request.name, request.lease, request.value
            ) as place:
                leader = election_pb2.LeaderKey(
                    name=place.name, key=place.key, rev=place.revision, lease=place.lease
                )
                if place.value != request.value:
                    await self._proclaim(call, leader, request.value)
                if await self._lines.turn(place) is None:
                    raise ELECTION_NOT_LEADER
        return place.header + election_pb2.CampaignResponse(leader=leader).SerializeToString()

    async def proclaim(self, call: Call, request: election_pb2.ProclaimRequest) -> bytes:
        """Write a new value while the seat is held, else ELECTION_NOT_LEADER (CON-11)."""
        if not request.HasField("leader"):
            raise ELECTION_MISSING_LEADER
        with through_a_client():
            header = await self._proclaim(call, request.leader, request.value)
        return election_pb2.ProclaimResponse(header=header).SerializeToString()

    async def _proclaim(
        self, call: Call, leader: election_pb2.LeaderKey, value: bytes
    ) -> rpc_pb2.ResponseHeader:
        lease = await self._lines.session(call, leader.lease)
        put = rpc_pb2.PutRequest(key=leader.key, value=value, lease=lease)
        answer = await self._while_seated(call, leader, rpc_pb2.RequestOp(request_put=put))
        if not answer.succeeded:
            raise ELECTION_NOT_LEADER
        return answer.header

    async def resign(self, call: Call, request: election_pb2.ResignRequest) -> bytes:
        """Leave the seat; one that is lost already is no error (CON-11)."""
        if not request.HasField("leader"):
            raise ELECTION_MISSING_LEADER
        delete = rpc_pb2.DeleteRangeRequest(key=request.leader.key)
        with through_a_client():
            op = rpc_pb2.RequestOp(request_delete_range=delete)
            answer = await self._while_seated(call, request.leader, op)
        return election_pb2.ResignResponse(header=answer.header).SerializeToString()

    async def _while_seated(
        self, call: Call, leader: election_pb2.LeaderKey, op: rpc_pb2.RequestOp
    ) -> rpc_pb2.TxnResponse:
        """Carry out `op` if the leader's key is still the one that was elected."""
        seated = rpc_pb2.Compare(
            key=leader.key,
            target=rpc_pb2.Compare.CREATE,
            result=rpc_pb2.Compare.EQUAL,
            create_revision=leader.rev,
        )
        return await self._lines.txn(call, rpc_pb2.TxnRequest(compare=[seated], success=[op]))

    async def leader(self, call: Call, request: election_pb2.LeaderRequest) -> bytes:
        """Return the leader's key and value. Raises ELECTION_NO_LEADER (CON-12)."""
        core = self._core
        with through_a_client():
            await core.fresh()
            key = await self._first(request.name)
            if key is None:
                raise ELECTION_NO_LEADER
            return self._response(core.store.revision, core.store.get(key) or b"")

    async def _first(self, name: bytes) -> bytes | None:
        """Return the leader's key; it leads at the moment of the return."""
        return await in_slices(first_created_steps(self._core.store, *interval_of(name)))

    def _response(self, revision: int, key_value: bytes) -> bytes:
        kv = kv_pb2.KeyValue.FromString(key_value)
        return self._core.header(revision) + election_pb2.LeaderResponse(kv=kv).SerializeToString()

    # Observe.

    async def observe(
        self, call: Call, requests: AsyncIterator[election_pb2.LeaderRequest], send: Send
    ) -> None:
        """Send the leader, and each later proclamation and leader, until the call ends (CON-13).

        What a slow client missed through a compaction is passed over; nothing is sent twice.
        """
        core, seen = self._core, (b"", 0)
        request = await single_request(requests)
        await fresh_at_last(core)
        while True:
            key = await self._first(request.name)
            watch = LocalWatch(core)
            try:
                # Nothing is applied between the look and the watch.
                if key is None:
                    watch.add(*interval_of(request.name))
                    await watch.responses()
                else:
                    watch.add(key)
                    seen = await self._follow(core.store.get(key) or b"", seen, watch, send)
            finally:
                watch.close()

    async def _follow(
        self, key_value: bytes, seen: tuple[bytes, int], watch: LocalWatch, send: Send
    ) -> tuple[bytes, int]:
        """Send what one leader says until its key is deleted; return what was sent last."""
        current = kv_pb2.KeyValue.FromString(key_value)
        if (current.key, current.mod_revision) != seen:
            await send([self._response(self._core.store.revision, key_value)])
        seen = current.key, current.mod_revision
        while True:
            for response in await watch.responses():
                if response.canceled:
                    return seen
                for event in response.events:
                    if event.type == kv_pb2.Event.DELETE:
                        return seen
                    said = election_pb2.LeaderResponse(header=response.header, kv=event.kv)
                    await send([said.SerializeToString()])
                    seen = event.kv.key, event.kv.mod_revision
