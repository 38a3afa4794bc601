"""A cluster of one member with real parts: its log is durable at once, time is a number.

What lives here: `Single`, for tests of the member core that need no second member. Whatever the
core wants run soon is run before a call returns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from kvstore.apply.applier import Applier
from kvstore.errors import EtcdError
from kvstore.lease.lessor import Lessor
from kvstore.membership.cluster import Cluster
from kvstore.mvcc.store import Store
from kvstore.node.member import Limits, Member, Result, store_applied
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import Backend
from kvstore.storage.wal import Batch
from raft import Config, ConfState, HardState, Message, Raft, SnapshotMeta

MEMBER_ID = 0x5157


class Single:
    """One leader; `propose` returns the answer, or the error, of an entry once it is applied."""

    def __init__(
        self, backend: Backend, limits: Limits, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._due: list[Callable[[], None]] = []
        self.hold = False
        """While set nothing becomes durable, so nothing is applied."""
        self._held: list[int] = []
        applied = SnapshotMeta(0, 0, ConfState(voters=(MEMBER_ID,)))
        store_applied(backend, applied)
        backend.commit()
        store = Store(backend)
        self.applier = Applier(store, Lessor(backend, min_ttl=1), Cluster(backend, 1))
        raft = Raft(
            Config(id=MEMBER_ID, election_tick=10, heartbeat_tick=1),
            hard_state=HardState(0, 0, 0),
            snapshot=applied,
            entries=[],
            applied=0,
            random=random.Random(1),
        )
        self.member = Member(
            raft,
            self.applier,
            backend,
            applied=applied,
            snapshot_index=0,
            log_writer=self,
            network=self,
            snapshots=self,
            schedule=self._due.append,
            first_request_id=1,
            limits=limits,
            now=0.0,
            clock=clock,
        )
        raft.campaign()
        self.member.wake()
        self.run()
        assert self.member.is_leader

    def run(self) -> None:
        """Do what is due."""
        while self._due:
            self._due.pop(0)()

    def release_held(self) -> None:
        """Let everything held become durable."""
        self.hold = False
        held, self._held = self._held, []
        if held:
            self.member.persisted(held[-1])
        self.run()

    def start(self, kind: Kind, request: bytes) -> list[Result]:
        """Propose; the list gets the result when there is one."""
        results: list[Result] = []
        self.member.propose(kind, request, results.append)
        self.run()
        return results

    def propose(self, kind: Kind, request: bytes) -> Result:
        (result,) = self.start(kind, request)
        return result

    def put(self, key: bytes, value: bytes) -> Result:
        request = rpc_pb2.PutRequest(key=key, value=value)
        return self.propose(Kind.PUT, request.SerializeToString())

    def commit(self) -> None:
        """Commit the backend as the server does."""
        write = self.member.begin_commit()
        if write is not None:
            write()
            self.member.end_commit()

    # LogWriter, Network, Snapshots.

    def submit(self, token: int, batch: Batch) -> None:
        if self.hold:
            self._held.append(token)
        else:
            self._due.append(lambda: self.member.persisted(token))

    def release(self, index: int) -> None:
        pass

    def send(self, messages: Sequence[Message] | Message) -> None:
        raise AssertionError(f"a single member sends nothing: {messages}")

    def install(self, meta: SnapshotMeta) -> None:
        raise AssertionError("a single member installs nothing")


def is_error(result: Result, error: EtcdError) -> bool:
    """Whether a result is this error of the catalogue."""
    return isinstance(result, EtcdError) and result.message == error.message
