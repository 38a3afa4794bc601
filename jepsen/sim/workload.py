"""Clients: each asks one thing at a time of some member, and holds the answer against the checks.

Answers that leave the outcome open (time-outs, a crash, a lost leader) are passed over; those that
claim that nothing happened are remembered and must be true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jepsen.sim.checks import Checks
from jepsen.sim.loop import Loop, Violation
from jepsen.sim.node import MIN_TTL_S, Node
from jepsen.sim.plan import Plan
from kvstore.apply.kv import (
    check_delete_range,
    check_put,
    check_range,
    check_txn,
    range_body,
)
from kvstore.errors import COMPACTED, FUTURE_REV, LEASE_NOT_FOUND, RAFT_PROPOSAL_DROPPED, EtcdError
from kvstore.errors import Code as GrpcCode
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import KeyValue

KEYS = tuple(b"key/%d" % number for number in range(6))
FIRST_KEY, LAST_KEY = b"key/", b"key0"
GIVE_UP_S = 3.0
"""A client that has had no answer for this time goes on (its member is gone)."""
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
        think_s: float,
    ) -> None:
        self.name = f"c{number}"
        self.stopped = False
        self._number = number
        self._random = plan.stream(self.name)
        self._loop = loop
        self._nodes = nodes
        self._checks = checks
        self._think_s = think_s
        self._asked = 0
        self._answered = 0
        self._leases: list[int] = []
        self._versions: dict[bytes, int] = {}
        """mod_revisions last read, for compare-and-swap."""

    def start(self) -> None:
        self._rest()

    def _rest(self) -> None:
        pause = self._random.expovariate(1 / self._think_s)
        self._loop.after(pause, f"{self.name} asks", self._ask)

    def _ask(self) -> None:
        random = self._random
        up = [node for node in self._nodes if node.serves and node.process.paused_until == 0.0]
        if self.stopped:
            return
        if not up:
            self._rest()
            return
        node = random.choice(up)
        self._asked += 1
        asked = self._asked
        self._loop.after(GIVE_UP_S, f"{self.name} gives up", lambda: self._end(asked, "none"))
        operations = (
            self._put, self._put, self._get, self._get, self._range, self._compare_and_swap,
            self._compare_and_swap, self._delete, self._lease, self._revoke, self._renew,
            self._compact, self._local_get,
        )  # fmt: skip
        weights = (20, 10, 20, 10, 10, 20, 10, 12, 6, 2, 6, 2, 10)
        operation = random.choices(operations, weights)[0]
        if node.member.raft.is_learner:
            operation = self._local_get
        operation(node, asked)

    def _end(self, asked: int, outcome: str) -> None:
        if self._answered < asked == self._asked:
            self._answered = asked
            self._loop.trace(f"{self.name} {outcome}")
            self._rest()

    def _propose(
        self,
        node: Node,
        asked: int,
        kind: Kind,
        body: bytes,
        answer: Callable[[bytes], str],
        refused: Callable[[EtcdError, bool], None] = lambda error, certain: None,
    ) -> None:
        """Propose. `answer` checks a response and says what it was, "" if there is more to wait
        for; `refused` gets an error and whether it is sure that nothing was done."""

        def done(result: Result) -> None:
            if isinstance(result, bytes):
                outcome = answer(result)
                if not outcome:
                    return
            else:
                certain = (
                    result in (RAFT_PROPOSAL_DROPPED, LEASE_NOT_FOUND)
                    or result.code == GrpcCode.DEADLINE_EXCEEDED
                )
                refused(result, certain)
                outcome = result.message
                self._checks.count(outcome)
            self._end(asked, outcome)

        try:
            node.member.propose(kind, body, done)
        except EtcdError as error:
            refused(error, True)
            self._end(asked, error.message)

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
        check_put(request)

        def answer(result: bytes) -> str:
            response = rpc_pb2.PutResponse.FromString(result)
            revision = response.header.revision
            checks.told(revision, floor, wrote=True)
            checks.wrote(revision, request.key, value)
            if request.prev_kv:
                self._same(
                    [response.prev_kv] if response.HasField("prev_kv") else [],
                    [checks.value_at(request.key, revision - 1)],
                )
            checks.count("put")
            return f"put {revision}"

        def refused(error: EtcdError, certain: bool) -> None:
            if error is LEASE_NOT_FOUND:
                if request.lease in self._leases:
                    self._leases.remove(request.lease)
                if self._loop.now < checks.lease_ends[request.lease] - MIN_TTL_S:
                    raise Violation(f"lease {request.lease} was granted and is not there")
            if certain:
                checks.refuse(value, error.message)

        self._propose(node, asked, Kind.PUT, request.SerializeToString(), answer, refused)

    def _delete(self, node: Node, asked: int) -> None:
        checks, floor = self._checks, self._checks.floor
        request = rpc_pb2.DeleteRangeRequest(key=self._random.choice(KEYS), prev_kv=True)
        if self._random.random() < 0.1:
            request.key, request.range_end = FIRST_KEY, LAST_KEY
        check_delete_range(request)

        def answer(result: bytes) -> str:
            response = rpc_pb2.DeleteRangeResponse.FromString(result)
            revision, deleted = response.header.revision, response.deleted
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

        self._propose(node, asked, Kind.DELETE_RANGE, request.SerializeToString(), answer)

    def _compare_and_swap(self, node: Node, asked: int) -> None:
        """Put if the key is as it was last seen here; else read it."""
        checks, floor = self._checks, self._checks.floor
        key, value = self._random.choice(KEYS), self._value()
        expected = self._versions.get(key, 0)
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
        compare = rpc_pb2.Compare(
            target=rpc_pb2.Compare.MOD,
            result=rpc_pb2.Compare.EQUAL,
            key=key,
            mod_revision=expected,
        )
        request = rpc_pb2.TxnRequest(compare=[compare], success=[put], failure=[get])
        check_txn(request)

        def answer(result: bytes) -> str:
            response = rpc_pb2.TxnResponse.FromString(result)
            revision, succeeded = response.header.revision, response.succeeded
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

        def refused(error: EtcdError, certain: bool) -> None:
            if certain:
                checks.refuse(value, error.message)

        self._propose(node, asked, Kind.TXN, request.SerializeToString(), answer, refused)

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

        self._propose(node, asked, Kind.LEASE_GRANT, request.SerializeToString(), answer)

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

        self._propose(node, asked, Kind.LEASE_REVOKE, request.SerializeToString(), answer)

    def _renew(self, node: Node, asked: int) -> None:
        """Renew at the member asked, which must lead, as `LeaseService` does."""
        checks = self._checks
        if not self._leases:
            self._end(asked, "no lease")
            return
        lease_id = self._random.choice(self._leases)
        if node.lessor.is_checkpointed(lease_id):
            checks.count("renewal of a checkpointed lease")

        def done(ttl: int | EtcdError) -> None:
            if isinstance(ttl, EtcdError):
                self._end(asked, "not renewed")
                return
            if ttl > 0:
                checks.count("renewal")
                end = self._loop.now + ttl
                checks.lease_ends[lease_id] = max(checks.lease_ends[lease_id], end)
            elif lease_id in self._leases:
                self._leases.remove(lease_id)
            self._end(asked, f"renewed {lease_id} {ttl}")

        node.lease_keeper.renew(lease_id, done)

    def _compact(self, node: Node, asked: int) -> None:
        checks, floor = self._checks, self._checks.floor
        revision = max(floor - self._random.randrange(30), 1)
        physical = self._random.random() < 0.5
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)

        def answer(result: bytes) -> str:
            response = rpc_pb2.CompactionResponse.FromString(result)
            checks.told(response.header.revision, floor, wrote=False)
            checks.count("compaction")
            if physical:
                checks.removals[(node.name, node.process.life, asked, self.name)] = revision
                node.member.wait_compacted(removed)
                return ""
            return f"compacted {revision}"

        def removed(_: Result) -> None:
            del checks.removals[(node.name, node.process.life, asked, self.name)]
            if node.store.finished_compact_revision < revision:
                raise Violation(f"{node.name} has not removed revisions below {revision} yet")
            checks.count("physical compaction")
            self._end(asked, f"removed {revision}")

        def refused(error: EtcdError, certain: bool) -> None:
            if error is FUTURE_REV:
                raise Violation(f"compaction at {revision}, already acknowledged: {error.message}")

        self._propose(node, asked, Kind.COMPACT, request.SerializeToString(), answer, refused)

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
        self._end(asked, self._answer_range(node, request))

    def _read(self, node: Node, asked: int, request: rpc_pb2.RangeRequest) -> None:
        """A linearizable read."""
        checks, floor = self._checks, self._checks.floor

        def done(error: EtcdError | None) -> None:
            if error is not None:
                checks.count(error.message)
                self._end(asked, error.message)
                return
            checks.told(node.store.revision, floor, wrote=False)
            checks.count("linearizable read")
            self._end(asked, self._answer_range(node, request))

        node.member.read_index(done)

    def _answer_range(self, node: Node, request: rpc_pb2.RangeRequest) -> str:
        check_range(request)
        try:
            revision, body = range_body(node.store, request)
        except EtcdError as error:
            if error is not COMPACTED or request.revision >= node.store.compact_revision:
                raise Violation(f"{request} was answered {error.message}") from error
            return error.message
        response = rpc_pb2.RangeResponse.FromString(body)
        at = request.revision or revision
        if request.range_end:
            expected = self._checks.range_at(request.key, request.range_end, at)
        else:
            only = self._checks.value_at(request.key, at)
            expected = [] if only is None else [only]
            if not request.revision:
                self._saw(request.key, response.kvs)
        self._same(list(response.kvs), expected)
        return f"read {at} {len(response.kvs)}"

    def _saw(self, key: bytes, found: Sequence[KeyValue]) -> None:
        self._versions[key] = found[0].mod_revision if found else 0

    @staticmethod
    def _same(found: Sequence[KeyValue], expected: Sequence[KeyValue | None]) -> None:
        wanted = [value for value in expected if value is not None]
        if list(found) != wanted:
            raise Violation(f"a client was answered {found}, instead of {wanted}")
