"""Clients: each asks one thing at a time of some member, and holds the answer against the checks.

Answers that leave the outcome open (time-outs, a crash, a lost leader) are passed over; those that
claim that nothing happened are remembered and must be true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from jepsen.history import Op
from jepsen.sim.checks import Checks
from jepsen.sim.loop import Loop, Violation
from jepsen.sim.node import MIN_TTL_S, TICK_S, Node
from jepsen.sim.plan import Plan
from jepsen.sim.record import Recorder
from jepsen.sim.rpc import OK, Exchange, Status, unary
from kvstore.errors import (
    COMPACTED,
    FUTURE_REV,
    LEASE_NOT_FOUND,
    NO_LEADER,
    NOT_SUPPORTED_FOR_LEARNER,
    RAFT_PROPOSAL_DROPPED,
    REQUEST_TOO_MANY_REQUESTS,
    Code,
)
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import KeyValue

REGISTERS = 3
REGISTER_S = 4.0
"""Virtual seconds after which clients go on to other registers: keeps the search for an order
short, which grows with what was left open on one key."""
KEYS = tuple(b"key/%d" % number for number in range(6))
FIRST_KEY, LAST_KEY = b"key/", b"key0"
GIVE_UP_S = 3.0
"""A client that has had no answer for this time goes on (its member is gone)."""
ASKS_PAUSED = 0.2
"""How often a client takes a member that is paused for one that serves; it hears nothing then, and
what it asked may be done when it has long given up."""
MAX_TTL_S = 5


class Client:
    """One client. `think_s` is the mean pause between an answer and the next request."""

    def __init__(
        self,
        number: int,
        plan: Plan,
        loop: Loop,
        nodes: Sequence[Node],
        checks: Checks,
        recorder: Recorder,
        think_s: float,
    ) -> None:
        self.name = f"c{number}"
        self.stopped = False
        self._number = number
        self._random = plan.stream(self.name)
        self._loop = loop
        self._nodes = nodes
        self._checks = checks
        self._recorder = recorder
        self._exchange: Exchange | None = None
        self._think_s = think_s
        self._asked = 0
        self._answered = 0
        # Without many compactions others fall far behind and still find their history.
        self._compactions = plan.stream("compactions").choice((0.1, 2, 4))
        # Many renewals find the moments at which leaders, checkpoints and expiries change.
        self._renewals = plan.stream("renewals").choice((6, 6, 60))
        self._leases: list[int] = []
        self._versions: dict[bytes, int] = {}
        """mod_revisions last read, for compare-and-swap."""
        self._registers: dict[bytes, str | None] = {}
        """Values of registers last read."""

    def start(self) -> None:
        self._rest()

    def _rest(self) -> None:
        pause = self._random.expovariate(1 / self._think_s)
        self._loop.after(pause, f"{self.name} asks", self._ask)

    def _ask(self) -> None:
        random = self._random
        up = [
            node
            for node in self._nodes
            if node.serves and (not node.process.paused_until or random.random() < ASKS_PAUSED)
        ]
        if self.stopped:
            return
        if not up:
            self._rest()
            return
        node = random.choice(up)
        self._asked += 1
        asked = self._asked
        self._loop.after(GIVE_UP_S, f"{self.name} gives up", lambda: self._give_up(asked))
        operations = (
            self._put, self._put, self._get, self._get, self._range, self._compare_and_swap,
            self._compare_and_swap, self._delete, self._lease, self._revoke, self._renew,
            self._compact, self._local_get, self._register_read, self._register_write,
            self._register_cas, self._status,
        )  # fmt: skip
        weights = (
            15,
            5,
            15,
            5,
            10,
            15,
            5,
            12,
            6,
            2,
            self._renewals,
            self._compactions,
            10,
            12,
            8,
            8,
            2,
        )
        operation = random.choices(operations, weights)[0]
        if node.member.raft.is_learner:
            operation = self._local_get
        operation(node, asked)

    def _end(self, asked: int, outcome: str) -> None:
        if self._answered < asked == self._asked:
            self._answered = asked
            self._loop.trace(f"{self.name} {outcome}")
            self._rest()

    def _give_up(self, asked: int) -> None:
        if self._answered < asked == self._asked:
            if self._exchange is not None:
                self._exchange.cancel()
            self._end(asked, "none")

    def _call(
        self,
        node: Node,
        asked: int,
        method: str,
        request: Message,
        answer: Callable[[bytes], str],
        refused: Callable[[Status, bool], None] = lambda status, certain: None,
    ) -> None:
        """Ask. `answer` checks a response and says what it was; `refused` gets an error and
        whether it is sure that nothing was done."""
        random = self._random
        deadline_s = random.uniform(0.05, GIVE_UP_S) if random.random() < 0.1 else 0.0
        metadata = {"hasleader": "true"} if random.random() < 0.5 else {}

        def done(status: Status, response: bytes) -> None:
            if self._answered >= asked:
                return
            if status == OK:
                outcome = answer(response)
            else:
                refused(status, _is_certain(status, deadline_s))
                outcome = status.message
                self._checks.count(outcome)
            self._end(asked, outcome)

        self._exchange = unary(
            self._loop,
            node,
            f"/etcdserverpb.{method}",
            self.name,
            request.SerializeToString(),
            done,
            metadata=metadata,
            timeout_s=deadline_s,
        )

    # Requests.

    def _value(self) -> bytes:
        return b"%s/%d" % (self.name.encode(), self._asked)

    def _put(self, node: Node, asked: int) -> None:
        random, checks = self._random, self._checks
        value, floor = self._value(), checks.floor
        request = rpc_pb2.PutRequest(
            key=random.choice(KEYS), value=value, prev_kv=random.random() < 0.5
        )
        if self._leases and random.random() < 0.3:
            request.lease = random.choice(self._leases)
            if random.random() < 0.7:
                request.key = b"lease/" + value

        op = self._begin("watch", "put", request.key, value.decode(), node)

        def answer(result: bytes) -> str:
            response = rpc_pb2.PutResponse.FromString(result)
            revision = response.header.revision
            self._recorder.ok(op, None, revision)
            checks.told(revision, floor, wrote=True)
            checks.wrote(revision, request.key, value)
            if request.prev_kv:
                self._same(
                    [response.prev_kv] if response.HasField("prev_kv") else [],
                    [checks.value_at(request.key, revision - 1)],
                )
            checks.count("put")
            return f"put {revision}"

        def refused(status: Status, certain: bool) -> None:
            self._recorder.failed(op, status.message, certain=certain)
            if status.message == LEASE_NOT_FOUND.message:
                if request.lease in self._leases:
                    self._leases.remove(request.lease)
                if self._loop.now < checks.lease_ends[request.lease] - MIN_TTL_S:
                    raise Violation(f"lease {request.lease} was granted and is not there")
            if certain:
                checks.refuse(value, status.message)

        self._call(node, asked, "KV/Put", request, answer, refused)

    def _delete(self, node: Node, asked: int) -> None:
        checks, floor = self._checks, self._checks.floor
        request = rpc_pb2.DeleteRangeRequest(key=self._random.choice(KEYS), prev_kv=True)
        if self._random.random() < 0.1:
            request.key, request.range_end = FIRST_KEY, LAST_KEY

        op = self._begin("watch", "delete", request.key, None, node)
        if request.range_end:
            self._recorder.ops.remove(op)

        def answer(result: bytes) -> str:
            response = rpc_pb2.DeleteRangeResponse.FromString(result)
            revision, deleted = response.header.revision, response.deleted
            if deleted:
                self._recorder.ok(op, None, revision)
            else:
                self._recorder.failed(op, "no key", certain=True)
            checks.told(revision, floor, wrote=bool(deleted))
            seen_at = revision - 1 if deleted else revision
            if request.range_end:
                expected = checks.range_at(request.key, request.range_end, seen_at)
            else:
                only = checks.value_at(request.key, seen_at)
                expected = [] if only is None else [only]
            self._same(list(response.prev_kvs), expected)
            for value in response.prev_kvs:
                checks.wrote(revision, value.key, None)
            checks.count("delete")
            return f"deleted {revision} {deleted}"

        def refused(status: Status, certain: bool) -> None:
            self._recorder.failed(op, status.message, certain=certain)

        self._call(node, asked, "KV/DeleteRange", request, answer, refused)

    def _compare_and_swap(self, node: Node, asked: int) -> None:
        """Put if the key is as it was last seen here; else read it."""
        checks, floor = self._checks, self._checks.floor
        key, value = self._random.choice(KEYS), self._value()
        expected = self._versions.get(key, 0)
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
        op = self._begin("watch", "put", key, value.decode(), node)
        compare = rpc_pb2.Compare(
            target=rpc_pb2.Compare.MOD,
            result=rpc_pb2.Compare.EQUAL,
            key=key,
            mod_revision=expected,
        )
        request = rpc_pb2.TxnRequest(compare=[compare], success=[put], failure=[get])

        def answer(result: bytes) -> str:
            response = rpc_pb2.TxnResponse.FromString(result)
            revision, succeeded = response.header.revision, response.succeeded
            if succeeded:
                self._recorder.ok(op, None, revision)
            else:
                self._recorder.failed(op, "compare failed", certain=True)
            checks.told(revision, floor, wrote=succeeded)
            before = checks.value_at(key, revision - 1 if succeeded else revision)
            matched = (before.mod_revision if before is not None else 0) == expected
            if matched != succeeded:
                raise Violation(
                    f"compare of {key!r} with {expected} at {revision}: {succeeded}, with {before}"
                )
            if succeeded:
                checks.wrote(revision, key, value)
                self._versions[key] = revision
            else:
                checks.refuse(value, "compare failed")
                self._same(list(response.responses[0].response_range.kvs), [before])
                self._saw(key, response.responses[0].response_range.kvs)
            checks.count("txn succeeded" if succeeded else "txn failed")
            return f"txn {revision} {succeeded}"

        def refused(status: Status, certain: bool) -> None:
            self._recorder.failed(op, status.message, certain=certain)
            if certain:
                checks.refuse(value, status.message)

        self._call(node, asked, "KV/Txn", request, answer, refused)

    def _lease(self, node: Node, asked: int) -> None:
        random, checks = self._random, self._checks
        lease_id, floor = random.getrandbits(62) + 1, self._checks.floor
        request = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=random.randint(1, MAX_TTL_S))
        checks.lease_ends[lease_id] = self._loop.now + max(request.TTL, MIN_TTL_S)

        def answer(result: bytes) -> str:
            response = rpc_pb2.LeaseGrantResponse.FromString(result)
            checks.told(response.header.revision, floor, wrote=False)
            if lease_id != response.ID or max(request.TTL, MIN_TTL_S) != response.TTL:
                raise Violation(f"{request} was answered {response}")
            self._leases.append(lease_id)
            checks.count("lease")
            return f"lease {lease_id}"

        self._call(node, asked, "Lease/LeaseGrant", request, answer)

    def _revoke(self, node: Node, asked: int) -> None:
        checks, floor = self._checks, self._checks.floor
        if not self._leases:
            self._end(asked, "no lease")
            return
        lease_id = self._leases.pop()
        checks.lease_ends[lease_id] = 0.0
        request = rpc_pb2.LeaseRevokeRequest(ID=lease_id)

        def answer(result: bytes) -> str:
            revision = rpc_pb2.LeaseRevokeResponse.FromString(result).header.revision
            checks.told(revision, floor, wrote=False)
            kept = checks.range_at(b"", b"\xff", revision)
            left = [kv.key for kv in kept if kv.lease == lease_id]
            if left:
                raise Violation(f"{left} outlived the revocation of lease {lease_id}")
            checks.count("revocation")
            return f"revoked {lease_id}"

        self._call(node, asked, "Lease/LeaseRevoke", request, answer)

    def _renew(self, node: Node, asked: int) -> None:
        """A keepalive stream of one request, ended by a half-close (LSE-15)."""
        checks, began = self._checks, self._loop.now
        if not self._leases:
            self._end(asked, "no lease")
            return
        lease_id = self._random.choice(self._leases)
        if self._random.random() < 0.5:  # the one that is about to end, or has just ended
            lease_id = min(self._leases, key=checks.lease_ends.__getitem__)
        if node.lessor.is_checkpointed(lease_id):
            checks.count("renewal of a checkpointed lease")
        if not node.member.is_leader:
            checks.count("renewal through a follower")

        def answered(message: bytes) -> None:
            ttl = rpc_pb2.LeaseKeepAliveResponse.FromString(message).TTL
            if ttl > 0:
                checks.count("renewal")
                # It was renewed after it was asked for: so long it lives at least.
                checks.lease_ends[lease_id] = max(checks.lease_ends[lease_id], began + ttl)
            elif lease_id in self._leases:
                self._leases.remove(lease_id)
                if self._loop.now < checks.lease_ends[lease_id] - 1.5 * TICK_S:
                    raise Violation(f"lease {lease_id} was granted and is not there")

        self._exchange = Exchange(
            self._loop,
            node,
            "/etcdserverpb.Lease/LeaseKeepAlive",
            self.name,
            metadata={"hasleader": "true"},
            on_message=answered,
            on_end=lambda status: self._end(asked, f"renewed {lease_id} {status.message}"),
        )
        request = rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)
        self._exchange.send(request.SerializeToString(), last=True)

    def _compact(self, node: Node, asked: int) -> None:
        checks, floor = self._checks, self._checks.floor
        revision = max(floor - self._random.randrange(30), 1)
        physical = self._random.random() < 0.5
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
        life = node.process.life

        def answer(result: bytes) -> str:
            response = rpc_pb2.CompactionResponse.FromString(result)
            checks.told(response.header.revision, floor, wrote=False)
            checks.count("compaction")
            if physical:
                checks.count("physical compaction")
                alive = node.up and node.process.life == life
                if alive and node.store.finished_compact_revision < revision:
                    raise Violation(f"{node.name} has not removed revisions below {revision} yet")
            return f"compacted {revision}"

        def refused(status: Status, certain: bool) -> None:
            if status.message == FUTURE_REV.message:
                raise Violation(f"compaction at {revision}, already acknowledged: {status.message}")

        self._call(node, asked, "KV/Compact", request, answer, refused)

    def _get(self, node: Node, asked: int) -> None:
        self._read(node, asked, rpc_pb2.RangeRequest(key=self._random.choice(KEYS)))

    def _range(self, node: Node, asked: int) -> None:
        self._read(node, asked, rpc_pb2.RangeRequest(key=FIRST_KEY, range_end=LAST_KEY))

    def _local_get(self, node: Node, asked: int) -> None:
        """A serializable read, sometimes of an old revision."""
        random = self._random
        request = rpc_pb2.RangeRequest(key=random.choice(KEYS), serializable=True)
        if random.random() < 0.5:
            request.revision = max(node.store.revision - random.randrange(20), 1)
        self._read(node, asked, request)

    def _read(self, node: Node, asked: int, request: rpc_pb2.RangeRequest) -> None:
        checks, floor = self._checks, self._checks.floor

        def answer(result: bytes) -> str:
            response = rpc_pb2.RangeResponse.FromString(result)
            if not request.serializable:
                checks.told(response.header.revision, floor, wrote=False)
                checks.count("linearizable read")
            at = request.revision or response.header.revision
            if request.range_end:
                expected = checks.range_at(request.key, request.range_end, at)
            else:
                only = checks.value_at(request.key, at)
                expected = [] if only is None else [only]
                if not request.serializable:
                    self._saw(request.key, response.kvs)
            self._same(list(response.kvs), expected)
            return f"read {at} {len(response.kvs)}"

        def refused(status: Status, certain: bool) -> None:
            if status.message == COMPACTED.message and request.revision >= checks.compacted:
                raise Violation(f"{request} was answered {status.message}")

        self._call(node, asked, "KV/Range", request, answer, refused)

    def _status(self, node: Node, asked: int) -> None:
        def answer(result: bytes) -> str:
            response = rpc_pb2.StatusResponse.FromString(result)
            return f"status {response.raftAppliedIndex} {response.raftTerm}"

        self._call(node, asked, "Maintenance/Status", rpc_pb2.StatusRequest(), answer)

    # Registers: keys that are only read, written and compared, for the checkers of histories.

    def _register(self) -> bytes:
        generation = int(self._loop.now / REGISTER_S)
        return b"register/%d/%d" % (generation, self._random.randrange(REGISTERS))

    def _register_read(self, node: Node, asked: int) -> None:
        key, checks, floor = self._register(), self._checks, self._checks.floor
        op = self._begin("register", "read", key, None, node)

        def answer(result: bytes) -> str:
            response = rpc_pb2.RangeResponse.FromString(result)
            revision = response.header.revision
            checks.told(revision, floor, wrote=False)
            found: list[Any] = [None, 0]
            for kv in response.kvs:
                found = [kv.value.decode(), kv.mod_revision]
            self._registers[key] = found[0]
            self._recorder.ok(op, found, revision)
            return f"register {revision} {found}"

        def refused(status: Status, certain: bool) -> None:
            self._recorder.failed(op, status.message, certain=certain)

        self._call(node, asked, "KV/Range", rpc_pb2.RangeRequest(key=key), answer, refused)

    def _register_write(self, node: Node, asked: int) -> None:
        key, value, checks = self._register(), self._value(), self._checks
        floor = checks.floor
        op = self._begin("register", "write", key, value.decode(), node)

        def answer(result: bytes) -> str:
            revision = rpc_pb2.PutResponse.FromString(result).header.revision
            checks.told(revision, floor, wrote=True)
            checks.wrote(revision, key, value)
            self._recorder.ok(op, None, revision)
            return f"register written {revision}"

        def refused(status: Status, certain: bool) -> None:
            self._recorder.failed(op, status.message, certain=certain)
            if certain:
                checks.refuse(value, status.message)

        request = rpc_pb2.PutRequest(key=key, value=value)
        self._call(node, asked, "KV/Put", request, answer, refused)

    def _register_cas(self, node: Node, asked: int) -> None:
        key, value, checks = self._register(), self._value(), self._checks
        floor, expected = checks.floor, self._registers.get(key)
        compare = rpc_pb2.Compare(key=key)
        if expected is None:
            compare.target, compare.version = rpc_pb2.Compare.VERSION, 0
        else:
            compare.target, compare.value = rpc_pb2.Compare.VALUE, expected.encode()
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
        op = self._begin("register", "cas", key, [expected, value.decode()], node)

        def answer(result: bytes) -> str:
            response = rpc_pb2.TxnResponse.FromString(result)
            revision, succeeded = response.header.revision, response.succeeded
            checks.told(revision, floor, wrote=succeeded)
            if succeeded:
                checks.wrote(revision, key, value)
            else:
                checks.refuse(value, "compare failed")
            self._recorder.ok(op, succeeded, revision)
            return f"register compared {revision} {succeeded}"

        def refused(status: Status, certain: bool) -> None:
            self._recorder.failed(op, status.message, certain=certain)
            if certain:
                checks.refuse(value, status.message)

        request = rpc_pb2.TxnRequest(compare=[compare], success=[put])
        self._call(node, asked, "KV/Txn", request, answer, refused)

    def _begin(self, workload: str, f: str, key: bytes, value: Any, node: Node) -> Op:
        return self._recorder.begin(self._number, workload, f, key, value, node.name)

    def _saw(self, key: bytes, found: Sequence[KeyValue]) -> None:
        self._versions[key] = found[0].mod_revision if found else 0

    @staticmethod
    def _same(found: Sequence[KeyValue], expected: Sequence[KeyValue | None]) -> None:
        wanted = [value for value in expected if value is not None]
        if list(found) != wanted:
            raise Violation(f"a client was answered {found}, instead of {wanted}")


# Not NO_SPACE: a member that finds itself full when it applies a write says so and has applied it
# all the same, as the others must (MNT-16).
CERTAIN = frozenset(
    error.message
    for error in (
        RAFT_PROPOSAL_DROPPED,
        LEASE_NOT_FOUND,
        NO_LEADER,
        REQUEST_TOO_MANY_REQUESTS,
        NOT_SUPPORTED_FOR_LEARNER,
    )
)


def _is_certain(status: Status, deadline_s: float) -> bool:
    """Whether an error says that nothing was done and never will be (RFT-21).

    The server's own "context deadline exceeded" does; that of the client's deadline does not.
    """
    if status.code == Code.DEADLINE_EXCEEDED:
        return not deadline_s
    return status.message in CERTAIN
