"""Taking turns: keys under one prefix wait for those created before them (CON-01, CON-04..06).

What Lock and Election share. A place in a line is an ordinary key ``<name>/<lease id in hex>``; its
turn has come when no live key under ``<name>/`` was created before it. `Lines` joins a line, waits
for the turn and gives the place up when its call fails; what the services answer is theirs.

The trade-off: joining is one entry of the log, waiting costs none. A waiter looks at this member's
own store, again each time the key before it or its own is deleted, so neither a change of leader
nor an installed snapshot nor a compaction can end the wait or hide its end; only the turn itself is
confirmed by a linearizable read. A place that is still there when the turn comes was there all the
time, for the revision that created it is compared, not the mere key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from kvstore.errors import STOPPED, Code, EtcdError
from kvstore.mvcc.creation import created, last_created_before_steps
from kvstore.mvcc.keyvalue import length_delimited
from kvstore.mvcc.steps import Result, Steps
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call
from kvstore.rpc.kv import KVService
from kvstore.rpc.lease import LeaseService

SESSION_TTL_S = 60
"""TTL of the lease that is granted to a call without one (CON-03, CON-15)."""

RETRY_S = 0.2
"""Pause before a read or a removal that met no leader is tried again."""

TAKE_BYTES = 1 << 20
"""Encoded watch responses taken from a queue at a time."""

_PASSING = frozenset((Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.UNKNOWN))
"""Codes of errors after which a request may have been carried out, or may be when tried again."""


@contextmanager
def through_a_client() -> Iterator[None]:
    """Give the errors of what runs inside the code Unknown: etcd's services ask a client (CON-08).

    A request that was given up keeps its code (GEN-11).
    """
    try:
        yield
    except EtcdError as error:
        keeps = error.code is Code.DEADLINE_EXCEEDED
        raise EtcdError(error.code if keeps else Code.UNKNOWN, error.message) from None


async def in_slices(steps: Steps[Result]) -> Result:
    """Run a search in slices between which the event loop runs."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        await asyncio.sleep(0)


async def fresh_at_last(core: Core) -> None:
    """Wait until local state is linearizable, through changes of leader and times without one.

    Raises:
        EtcdError: STOPPED.
    """
    while True:
        try:
            await core.fresh()
        except EtcdError as error:
            if error.message == STOPPED.message:
                raise
            await asyncio.sleep(RETRY_S)
        else:
            return


def interval_of(name: bytes) -> tuple[bytes, bytes]:
    """Return the half-open interval of a line's keys: all that begin with ``<name>/``."""
    return name + b"/", name + b"0"  # the byte after "/" is "0"


def key_of(name: bytes, lease: int) -> bytes:
    """Return a place's key: lower-case hex without padding, ``-`` for negative ids (CON-02)."""
    return name + b"/%s" % f"{lease:x}".encode()


class LocalWatch:
    """A watch of this member's own hub from the next revision on, for code that runs in it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._filled = asyncio.Event()
        self._stream = core.hub.stream(self._filled.set)

    def add(self, key: bytes, range_end: bytes = b"") -> None:
        """Watch a key or an interval too. Add all before the first `responses`."""
        member = self._core.member
        request = rpc_pb2.WatchCreateRequest(key=key, range_end=range_end)
        self._stream.create(request, member.applied_term, member.now)
        self._stream.take(TAKE_BYTES)  # the reply that says it was created
        self._filled.clear()

    async def responses(self) -> list[rpc_pb2.WatchResponse]:
        """Wait for responses and take them; one with `canceled` is the last of its watch."""
        await self._filled.wait()
        taken = self._stream.take(TAKE_BYTES)
        if not self._stream.queue:
            self._filled.clear()
        return [rpc_pb2.WatchResponse.FromString(response) for response in taken]

    def close(self) -> None:
        self._stream.close()


@dataclass(slots=True, eq=False)
class Place:
    """A place in a line."""

    name: bytes
    key: bytes
    lease: int
    session: bool
    """The lease was granted for this call, and nobody else knows it."""
    revision: int = 0
    """The revision that created the key; 0 until the key is known to be there."""
    value: bytes = b""
    """What the key held when the place was taken."""
    header: bytes = b""
    """Header field of the answer to the joining transaction."""
    guard: rpc_pb2.Compare | None = None
    """What tells this call's key from others'; None: it has left no key."""


class Lines:
    """All lines of a member: who waits through it, and which places are being given up."""

    def __init__(self, core: Core, kv: KVService, leases: LeaseService) -> None:
        self._core = core
        self._kv = kv
        self._leases = leases
        self._calls: Counter[bytes] = Counter()
        self._leaving: dict[bytes, asyncio.Task[None]] = {}

    async def session(self, call: Call, lease: int) -> int:
        """Return the lease, or for 0 a new one that nobody renews (CON-03)."""
        if lease:
            return lease
        answer = await self._leases.grant(call, rpc_pb2.LeaseGrantRequest(TTL=SESSION_TTL_S))
        return int(rpc_pb2.LeaseGrantResponse.FromString(answer).ID)

    async def txn(self, call: Call, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """Run a transaction as the KV service does."""
        answer = self._kv.txn(call, request)
        return rpc_pb2.TxnResponse.FromString(answer if isinstance(answer, bytes) else await answer)

    @asynccontextmanager
    async def joined(
        self, call: Call, name: bytes, lease: int, value: bytes = b""
    ) -> AsyncIterator[Place]:
        """Take a place with this value, or the one that the lease has already (CON-04).

        When the body fails or is cancelled the place is given up, unless another call waits with
        the same one (CON-06).

        Raises:
            EtcdError: what the transaction raises, LEASE_NOT_FOUND for an unknown lease.
        """
        owner = await self.session(call, lease)
        place = Place(name, key_of(name, owner), owner, session=not lease)
        while place.key in self._leaving:
            # An earlier call's removal must not take the key from under this one.
            await asyncio.wait((self._leaving[place.key],))
        self._calls[place.key] += 1
        try:
            await self._join(call, place, value)
            yield place
        except BaseException:
            if self._calls[place.key] == 1:
                self._leave(place)
            raise
        finally:
            self._calls[place.key] -= 1
            if not self._calls[place.key]:
                del self._calls[place.key]

    async def _join(self, call: Call, place: Place, value: bytes) -> None:
        compare = rpc_pb2.Compare
        absent = compare(key=place.key, target=compare.CREATE, result=compare.EQUAL)
        put = rpc_pb2.PutRequest(key=place.key, value=value, lease=place.lease)
        get = rpc_pb2.RangeRequest(key=place.key)
        request = rpc_pb2.TxnRequest(
            compare=[absent],
            success=[rpc_pb2.RequestOp(request_put=put)],
            failure=[rpc_pb2.RequestOp(request_range=get)],
        )
        store = self._core.store
        if not created(store, place.key):
            place.guard = compare(
                key=place.key,
                target=compare.CREATE,
                result=compare.GREATER,
                create_revision=store.revision,
            )
        try:
            answer = await self.txn(call, request)
        except EtcdError as error:
            if error.code not in _PASSING:
                place.guard = None
            raise
        place.header = length_delimited(b"\n", answer.header.SerializeToString())
        place.revision, place.value = answer.header.revision, value
        if not answer.succeeded:
            found = answer.responses[0].response_range.kvs[0]
            place.revision, place.value = found.create_revision, found.value
        place.guard = compare(
            key=place.key,
            target=compare.CREATE,
            result=compare.EQUAL,
            create_revision=place.revision,
        )

    async def turn(self, place: Place) -> bytes | None:
        """Wait until no older place is left; return the header field for that moment (CON-05).

        Returns:
            None as soon as the place itself is lost: its lease ended or its key was deleted.

        Raises:
            EtcdError: STOPPED.
        """
        core, waited = self._core, False
        start, end = interval_of(place.name)
        while True:
            search = last_created_before_steps(core.store, start, end, place.revision)
            older = await in_slices(search)
            if not self._holds(place):
                return None
            if older is None:
                break
            waited = True
            await self._change(place, older)
        if not waited:
            return place.header
        await fresh_at_last(core)
        return core.header(core.store.revision) if self._holds(place) else None

    def _holds(self, place: Place) -> bool:
        return created(self._core.store, place.key) == place.revision

    async def _change(self, place: Place, older: bytes) -> None:
        """Return when either key was deleted, or may have been."""
        watch = LocalWatch(self._core)
        try:
            watch.add(older)
            watch.add(place.key)
            # Nothing is applied between a look at the store and the wait that follows it.
            while self._holds(place) and 0 < created(self._core.store, older) < place.revision:
                if any(response.canceled for response in await watch.responses()):
                    return  # history was compacted under it after a snapshot: look again
        finally:
            watch.close()

    def _leave(self, place: Place) -> None:
        """Begin to give a place up; goes on though the call is over."""
        if place.session:
            revoke = rpc_pb2.LeaseRevokeRequest(ID=place.lease)
            removal = self._remove(Kind.LEASE_REVOKE, revoke.SerializeToString())
        elif place.guard is None or (place.revision and not self._holds(place)):
            return
        else:
            delete = rpc_pb2.DeleteRangeRequest(key=place.key)
            guarded = rpc_pb2.TxnRequest(
                compare=[place.guard], success=[rpc_pb2.RequestOp(request_delete_range=delete)]
            )
            removal = self._remove(Kind.TXN, guarded.SerializeToString())
        task = asyncio.ensure_future(removal)
        self._leaving[place.key] = task
        task.add_done_callback(lambda _: self._leaving.pop(place.key))

    async def _remove(self, kind: Kind, body: bytes) -> None:
        """Propose until it is carried out: what is left behind would block all who follow."""
        while True:
            try:
                await self._core.propose(kind, body)
            except EtcdError as error:
                if error.code in _PASSING and error.message != STOPPED.message:
                    await asyncio.sleep(RETRY_S)
                    continue
            return
