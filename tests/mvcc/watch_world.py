"""A store with a watch hub on top, as the node wires them, and a client's view of the streams."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kvstore.mvcc.store import Event, Store
from kvstore.mvcc.watch import WatchHub
from kvstore.mvcc.watch_stream import WatchStream
from kvstore.pb.rpc_pb2 import WatchCreateRequest, WatchResponse
from kvstore.storage.memory_backend import MemoryBackend

CLUSTER_ID = 2**64 - 3
MEMBER_ID = 77
TERM = 5
MAX_REQUEST_BYTES = 1_572_864
PROGRESS_INTERVAL_S = 10.0

NOPUT = WatchCreateRequest.NOPUT
NODELETE = WatchCreateRequest.NODELETE


class World:
    """One member's store and hub; `now` is its clock."""

    def __init__(self, *, max_request_bytes: int = MAX_REQUEST_BYTES, **limits: int) -> None:
        self.backend = MemoryBackend()
        self.store = Store(self.backend)
        self.hub = WatchHub(
            self.store,
            cluster_id=CLUSTER_ID,
            member_id=MEMBER_ID,
            max_request_bytes=max_request_bytes,
            progress_interval=PROGRESS_INTERVAL_S,
            random=random.Random(1),
            **limits,
        )
        self.store.on_events = self.publish
        self.now = 100.0

    def publish(self, revision: int, events: list[Event]) -> None:
        self.hub.publish(revision, events, TERM)

    def put(self, key: bytes, value: bytes = b"", lease: int = 0) -> int:
        txn = self.store.begin()
        txn.put(key, value, lease)
        return txn.commit()

    def delete(self, key: bytes) -> int:
        txn = self.store.begin()
        txn.delete(key)
        return txn.commit()

    def txn(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = ()) -> int:
        txn = self.store.begin()
        for key, value in puts:
            txn.put(key, value, 0)
        for key in deletes:
            txn.delete(key)
        return txn.commit()

    def compact(self, revision: int) -> None:
        self.store.compact(revision)
        while self.store.compact_step(1000):
            pass

    def install_snapshot(self, *writes: tuple[bytes, bytes]) -> int:
        """Let the cluster write behind this member's back and install the result."""
        leader = Store(self.backend)
        for key, value in writes:
            txn = leader.begin()
            txn.put(key, value, 0)
            txn.commit()
        self.backend.commit()
        self.backend = self.backend.crash()
        self.store.restore(self.backend)
        self.hub.restored()
        return self.store.revision

    def catch_up(self) -> None:
        while self.hub.catch_up():
            pass

    def client(self) -> Client:
        return Client(self)


class Client:
    """The far end of one stream: what it is sent is decoded from the wire bytes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wakes = 0
        self.stream: WatchStream = world.hub.stream(self.wake)

    def wake(self) -> None:
        self.wakes += 1

    def create(self, key: bytes = b"", range_end: bytes = b"", **options: object) -> None:
        request = WatchCreateRequest(key=key, range_end=range_end, **options)
        self.stream.create(request, TERM, self.world.now)

    def watch(self, key: bytes = b"", range_end: bytes = b"", **options: object) -> int:
        """Create a watch that must succeed; return its id. Takes what is waiting before it."""
        self.create(key, range_end, **options)
        reply = self.take()[-1]
        assert reply.created
        assert not reply.canceled
        return int(reply.watch_id)

    def take(self, max_bytes: int = 1 << 40) -> list[WatchResponse]:
        return [WatchResponse.FromString(data) for data in self.stream.take(max_bytes)]

    def take_one(self) -> WatchResponse:
        responses = self.take()
        assert len(responses) == 1, responses
        return responses[0]


def summary(response: WatchResponse) -> list[tuple[str, bytes, int]]:
    """The events of a response as (type, key, mod_revision)."""
    return [
        ("DELETE" if event.type else "PUT", event.kv.key, event.kv.mod_revision)
        for event in response.events
    ]


def revisions(responses: Sequence[WatchResponse]) -> list[int]:
    """The revisions of all events of some responses, in order."""
    return [event.kv.mod_revision for response in responses for event in response.events]
