"""What the stories of this folder do besides those of tests/sim: watches, leases, transactions.

Everything here runs on virtual time with real member code; see `tests.sim.test_requests.Story`.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from jepsen.sim.node import Node
from jepsen.sim.rpc import Status, unary
from kvstore.errors import EtcdError
from kvstore.mvcc.watch_stream import WatchStream
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from tests.sim.test_requests import Story

TAKE_BYTES = 1 << 20


def ask(story: Story, node: Node, kind: Kind, request: Message) -> Result:
    """Propose through a member and wait for the answer."""
    answers: list[Result] = []
    node.member.propose(kind, request.SerializeToString(), answers.append)
    story.until(lambda: bool(answers))
    return answers[0]


def put(story: Story, node: Node, key: bytes, lease: int = 0) -> int:
    """Put a value of its own (the simulation's checks want that), and return the revision."""
    value = b"%d" % story.simulation.loop.events
    answer = ask(story, node, Kind.PUT, rpc_pb2.PutRequest(key=key, value=value, lease=lease))
    assert isinstance(answer, bytes), answer
    return node.store.revision


def delete(story: Story, node: Node, key: bytes) -> int:
    """Delete, and return the revision."""
    answer = ask(story, node, Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=key))
    assert isinstance(answer, bytes), answer
    return node.store.revision


def compact(story: Story, node: Node, revision: int) -> None:
    """Compact the history before `revision`."""
    answer = ask(story, node, Kind.COMPACT, rpc_pb2.CompactionRequest(revision=revision))
    assert isinstance(answer, bytes), answer


def grant(story: Story, node: Node, lease: int, ttl: int) -> None:
    """Grant a lease of `ttl` seconds."""
    answer = ask(story, node, Kind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=lease, TTL=ttl))
    assert isinstance(answer, bytes), answer


def revoke(story: Story, node: Node, lease: int) -> Result:
    """Revoke a lease."""
    return ask(story, node, Kind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease))


def begin_renewal(node: Node, lease: int) -> list[int | EtcdError]:
    """Ask a member to renew a lease; the list gets its answer: the TTL, 0 or less if it is gone."""
    answers: list[int | EtcdError] = []
    node.lease_keeper.renew(lease, answers.append)
    return answers


def renewal(story: Story, node: Node, lease: int) -> int | EtcdError:
    """Ask a member to renew a lease, and wait for the answer."""
    answers = begin_renewal(node, lease)
    story.until(lambda: bool(answers))
    return answers[0]


def guarded_put(
    story: Story, node: Node, guard: bytes, create_revision: int, key: bytes, value: bytes
) -> bool:
    """Put if the guard (a lock's key) still has its create revision; whether it has."""
    compare = rpc_pb2.Compare(
        key=guard, target=rpc_pb2.Compare.CREATE, create_revision=create_revision
    )
    operation = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
    answer = ask(story, node, Kind.TXN, rpc_pb2.TxnRequest(compare=[compare], success=[operation]))
    assert isinstance(answer, bytes), answer
    return bool(rpc_pb2.TxnResponse.FromString(answer).succeeded)


def call(story: Story, node: Node, path: str, request: Message) -> list[tuple[Status, bytes]]:
    """Begin a unary call; the list gets its status and response."""
    answers: list[tuple[Status, bytes]] = []

    def done(status: Status, response: bytes) -> None:
        answers.append((status, response))

    unary(story.simulation.loop, node, path, "client", request.SerializeToString(), done)
    return answers


def leader_of(story: Story, among: Sequence[Node]) -> Node:
    """Wait for a leader that ends leases among some members."""
    story.until(lambda: any(node.up and node.lessor.is_primary for node in among))
    return next(node for node in among if node.up and node.lessor.is_primary)


class Watch:
    """A watch of everything on one member, whose responses are taken as the story goes on."""

    def __init__(self, story: Story, node: Node, start_revision: int = 0) -> None:
        self.node = node
        self.stream: WatchStream = node.hub.stream(lambda: None)
        self.events: list[tuple[int, bytes]] = []
        """(revision, key) of each event, in the order received."""
        self.progress: list[tuple[int, int]] = []
        """(revision, number of events before it) of each report of progress."""
        self.responses: list[list[int]] = []
        """The revisions in each response with events."""
        request = rpc_pb2.WatchCreateRequest(
            key=b"\0", range_end=b"\0", start_revision=start_revision, progress_notify=True
        )
        self.stream.create(request, node.member.applied_term, story.simulation.loop.now)
        self.created = rpc_pb2.WatchResponse.FromString(self.stream.take(TAKE_BYTES)[0])

    def ask_progress(self) -> None:
        self.stream.progress(self.node.member.applied_term)

    def take(self) -> None:
        """Take what is there."""
        for data in self.stream.take(TAKE_BYTES):
            response = rpc_pb2.WatchResponse.FromString(data)
            assert not response.canceled, response
            self.events += [(event.kv.mod_revision, event.kv.key) for event in response.events]
            if response.events:
                self.responses.append([event.kv.mod_revision for event in response.events])
            else:
                self.progress.append((response.header.revision, len(self.events)))

    def has(self, revision: int) -> bool:
        """Take what is there; whether the event of this revision has come."""
        self.take()
        return bool(self.events) and self.events[-1][0] >= revision

    def check_progress(self) -> None:
        """After progress R there was no event of R or before."""
        for revision, count in self.progress:
            assert all(later > revision for later, _ in self.events[count:]), (revision, count)
