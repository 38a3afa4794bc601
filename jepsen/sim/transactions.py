"""A client of many-key requests: nested transactions, ranges with limits and counts, alarms.

Every answer is held against the reference history, for which a transaction is computed once more by
code of its own: compares against the state before it, reads with its own writes, all of its events
in one revision or, when it is refused, none at all. It asks the member core, not the services.
"""

from __future__ import annotations

from collections.abc import Sequence

from jepsen.sim.checks import Checks
from jepsen.sim.loop import Loop, Violation
from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from kvstore.apply.kv import check_range, check_txn, range_body
from kvstore.errors import COMPACTED, LEASE_NOT_FOUND, EtcdError
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import KeyValue

KEYS = tuple(b"key/%d" % number for number in range(6))
FIRST_KEY, LAST_KEY = b"key/", b"key0"
THINK_S = 0.05
GIVE_UP_S = 3.0
NO_SUCH_LEASE = 77
"""Nobody grants it: a put with it is refused, and the whole transaction with it."""
Compare = rpc_pb2.Compare


class Transactor:
    """One client, which asks one thing at a time."""

    def __init__(
        self, number: int, plan: Plan, loop: Loop, nodes: Sequence[Node], checks: Checks
    ) -> None:
        self.name = f"t{number}"
        self._random = plan.stream(self.name)
        self._loop = loop
        self._nodes = nodes
        self._checks = checks
        self._asked = 0
        self._answered = 0
        self.stopped = False

    def start(self) -> None:
        self._rest()

    def _rest(self) -> None:
        self._loop.after(self._random.expovariate(1 / THINK_S), f"{self.name} asks", self._ask)

    def _end(self, asked: int) -> None:
        if self._answered < asked == self._asked:
            self._answered = asked
            self._rest()

    def _ask(self) -> None:
        if self.stopped:
            return
        up = [n for n in self._nodes if n.serves_all and n.process.paused_until == 0.0]
        if not up:
            self._rest()
            return
        self._asked += 1
        asked, node = self._asked, self._random.choice(up)
        self._loop.after(GIVE_UP_S, f"{self.name} gives up", lambda: self._end(asked))
        kinds = (self._transact, self._read, self._watch, self._alarm)
        self._random.choices(kinds, (10, 8, 1, 0.3))[0](node, asked)

    # Transactions.

    def _transact(self, node: Node, asked: int) -> None:
        request = self._txn([*KEYS], depth=1)
        check_txn(request)
        checks, floor = self._checks, self._checks.floor
        values = _values(request)

        def done(result: Result) -> None:
            if isinstance(result, bytes):
                self._judge(request, rpc_pb2.TxnResponse.FromString(result), floor)
            elif result is LEASE_NOT_FOUND:
                for value in values:
                    checks.refuse(value, result.message)
                checks.count("transaction refused")
            self._end(asked)

        try:
            node.member.propose(Kind.TXN, request.SerializeToString(), done)
        except EtcdError as error:
            for value in values:
                checks.refuse(value, error.message)
            self._end(asked)

    def _txn(self, free: list[bytes], depth: int) -> rpc_pb2.TxnRequest:
        """Draw one. `free`: keys that may be written; no key is written twice on any path."""
        compares = [self._compare() for _ in range(self._random.randrange(3))]
        branches = []
        for _ in range(2):
            left = [*free]
            ops = [self._op(left, depth) for _ in range(self._random.randint(1, 4))]
            branches.append(ops)
        return rpc_pb2.TxnRequest(compare=compares, success=branches[0], failure=branches[1])

    def _compare(self) -> Compare:
        random, checks = self._random, self._checks
        key = random.choice(KEYS)
        seen = checks.value_at(key, checks.floor)
        result = random.choice((Compare.EQUAL, Compare.GREATER, Compare.LESS, Compare.NOT_EQUAL))
        if random.random() < 0.5:
            mod = seen.mod_revision if seen is not None else 0
            return Compare(key=key, target=Compare.MOD, result=result, mod_revision=mod)
        version = seen.version if seen is not None else 0
        return Compare(key=key, target=Compare.VERSION, result=result, version=version)

    def _op(self, free: list[bytes], depth: int) -> rpc_pb2.RequestOp:
        random = self._random
        kind = random.choices(("put", "delete", "range", "txn"), (5, 2, 3, 2 * depth))[0]
        if kind == "range" or not free:
            one = rpc_pb2.RangeRequest(key=random.choice(KEYS))
            many = rpc_pb2.RangeRequest(key=FIRST_KEY, range_end=LAST_KEY)
            return rpc_pb2.RequestOp(request_range=random.choice((one, many)))
        if kind == "txn":
            inner = free[: len(free) // 2]
            del free[: len(free) // 2]
            return rpc_pb2.RequestOp(request_txn=self._txn(inner, depth - 1))
        key = free.pop(random.randrange(len(free)))
        if kind == "delete":
            delete = rpc_pb2.DeleteRangeRequest(key=key, prev_kv=random.random() < 0.5)
            return rpc_pb2.RequestOp(request_delete_range=delete)
        value = b"%s/%d/%s/%d" % (self.name.encode(), self._asked, key, random.getrandbits(32))
        lease = NO_SUCH_LEASE if random.random() < 0.05 else 0
        put = rpc_pb2.PutRequest(key=key, value=value, lease=lease, prev_kv=random.random() < 0.5)
        return rpc_pb2.RequestOp(request_put=put)

    def _judge(
        self, request: rpc_pb2.TxnRequest, response: rpc_pb2.TxnResponse, floor: int
    ) -> None:
        checks, revision = self._checks, response.header.revision
        happened = [event[:2] for _, es in checks.events_between(revision, revision + 1)
                    for event in es]  # fmt: skip
        # Nobody can tell from outside whether the revision is its own: its values can.
        own = any(checks.values.get(value) == revision for value in _values(request))
        deleted = _deletions(response)
        before = revision - 1 if own or deleted else revision
        checks.told(revision, floor, wrote=before < revision)
        model = _Model(checks, before)
        expected = model.run(request)
        for inner in (response, expected):
            _strip(inner)
        if response != expected:
            raise Violation(
                f"a client was answered {response} to {request} at {revision}, instead of"
                f" {expected}"
            )
        if before < revision and happened != model.events:
            raise Violation(
                f"the transaction acknowledged at {revision} is not there whole: {happened} and"
                f" not {model.events}"
            )
        checks.count("many-key transaction")

    # Ranges.

    def _read(self, node: Node, asked: int) -> None:
        random, checks, floor = self._random, self._checks, self._checks.floor
        request = rpc_pb2.RangeRequest(
            key=random.choice((FIRST_KEY, *KEYS)),
            range_end=LAST_KEY,
            limit=random.choice((0, 0, 1, 3)),
            count_only=random.random() < 0.3,
            keys_only=random.random() < 0.2,
        )
        if random.random() < 0.5:
            request.revision = max(floor - random.randrange(20), 1)

        def done(error: EtcdError | None) -> None:
            if error is None:
                checks.told(node.store.revision, floor, wrote=False)
                self._answer(node, request)
            self._end(asked)

        node.member.read_index(done)

    def _answer(self, node: Node, request: rpc_pb2.RangeRequest) -> None:
        check_range(request)
        try:
            revision, body = range_body(node.store, request)
        except EtcdError as error:
            if error is not COMPACTED or request.revision >= node.store.compact_revision:
                raise Violation(f"{request} was answered {error.message}") from error
            return
        if request.revision and request.revision < node.store.compact_revision:
            raise Violation(f"{request} was answered below the compaction")
        response = rpc_pb2.RangeResponse.FromString(body)
        at = request.revision or revision
        found = self._checks.range_at(request.key, request.range_end, at)
        kept = [] if request.count_only else found[: request.limit or None]
        expected = rpc_pb2.RangeResponse(
            kvs=[_without_value(kv) for kv in kept] if request.keys_only else kept,
            more=not request.count_only and len(kept) < len(found),
            count=len(found),
        )
        if response != expected:
            raise Violation(f"a client was answered {response} to {request}, instead of {expected}")
        self._checks.count("range with a count")

    # Watches with a filter.

    def _watch(self, node: Node, asked: int) -> None:
        """Watch for a while from a revision of before: only the other kind of events may come."""
        left_out = self._random.choice((0, 1))
        request = rpc_pb2.WatchCreateRequest(
            key=FIRST_KEY,
            range_end=LAST_KEY,
            start_revision=max(self._checks.floor - 10, 1),
            filters=[rpc_pb2.WatchCreateRequest.FilterType.Name(left_out)],
        )
        life, stream = node.process.life, node.hub.stream(lambda: None)
        stream.create(request, node.member.applied_term, self._loop.now)

        def look() -> None:
            if node.process.life == life:
                for taken in stream.take(1 << 20):
                    response = rpc_pb2.WatchResponse.FromString(taken)
                    self._only(node, response, 1 - left_out)
                stream.close()
            self._end(asked)

        self._loop.after(0.3, f"{self.name} looks", look)

    def _only(self, node: Node, response: rpc_pb2.WatchResponse, kind: int) -> None:
        for event in response.events:
            if event.type != kind:
                raise Violation(f"{self.name} on {node.name} got {event}, which it filters")
        self._checks.count("filtered watch")

    # Alarms.

    def _alarm(self, node: Node, asked: int) -> None:
        """Raise NOSPACE for a moment, wherever the client's request may have got to."""
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=node.id, alarm=rpc_pb2.NOSPACE
        )
        self._checks.count("alarm")

        def raised(result: Result) -> None:
            self._loop.after(0.1, f"{self.name} disarms", lambda: self._disarm(node.id))
            self._end(asked)

        try:
            node.member.propose(Kind.ALARM, request.SerializeToString(), raised)
        except EtcdError:
            self._end(asked)
            return
        self._loop.after(GIVE_UP_S, f"{self.name} disarms", lambda: self._disarm(node.id))

    def _disarm(self, member_id: int) -> None:
        """Disarm, and ask again until somebody says that it is done."""
        asked = {"answered": False}
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=member_id, alarm=rpc_pb2.NOSPACE
        )

        def done(result: Result) -> None:
            asked["answered"] = isinstance(result, bytes)

        def again() -> None:
            if not asked["answered"]:
                self._disarm(member_id)

        up = [n for n in self._nodes if n.serves_all and n.process.paused_until == 0.0]
        if up:
            try:
                self._random.choice(up).member.propose(
                    Kind.ALARM, request.SerializeToString(), done
                )
            except EtcdError:
                asked["answered"] = False
        self._loop.after(0.5, f"{self.name} disarms again", again)


class _Model:
    """One transaction on the reference's state at a revision."""

    def __init__(self, checks: Checks, before: int) -> None:
        self._checks = checks
        self._before = before
        self._written: dict[bytes, KeyValue | None] = {}
        self.events: list[tuple[int, bytes]] = []

    def run(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """The response, its headers left out."""
        succeeded = all(self._holds(compare) for compare in request.compare)
        ops = request.success if succeeded else request.failure
        # Compares of the inner ones see the state before all of it: `_holds` looks there.
        return rpc_pb2.TxnResponse(succeeded=succeeded, responses=[self._run(op) for op in ops])

    def _holds(self, compare: Compare) -> bool:
        seen = self._checks.value_at(compare.key, self._before)
        if compare.target == Compare.MOD:
            actual, wanted = (seen.mod_revision if seen is not None else 0), compare.mod_revision
        else:
            actual, wanted = (seen.version if seen is not None else 0), compare.version
        return {
            Compare.EQUAL: actual == wanted,
            Compare.NOT_EQUAL: actual != wanted,
            Compare.GREATER: actual > wanted,
            Compare.LESS: actual < wanted,
        }[compare.result]

    def _now(self, key: bytes) -> KeyValue | None:
        if key in self._written:
            return self._written[key]
        return self._checks.value_at(key, self._before)

    def _run(self, op: rpc_pb2.RequestOp) -> rpc_pb2.ResponseOp:
        match op.WhichOneof("request"):
            case "request_txn":
                return rpc_pb2.ResponseOp(response_txn=self.run(op.request_txn))
            case "request_range":
                wanted = op.request_range
                keys = KEYS if wanted.range_end else (wanted.key,)
                found = [kv for key in keys if (kv := self._now(key)) is not None]
                body = rpc_pb2.RangeResponse(kvs=found, count=len(found))
                return rpc_pb2.ResponseOp(response_range=body)
            case "request_put":
                return self._put(op.request_put)
        return self._delete(op.request_delete_range)

    def _put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.ResponseOp:
        old, main = self._now(request.key), self._before + 1
        self.events.append((0, request.key))
        self._written[request.key] = KeyValue(
            key=request.key,
            value=request.value,
            mod_revision=main,
            create_revision=old.create_revision if old is not None else main,
            version=old.version + 1 if old is not None else 1,
        )
        prev = old if request.prev_kv else None
        return rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse(prev_kv=prev))

    def _delete(self, request: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.ResponseOp:
        old = self._now(request.key)
        if old is not None:
            self.events.append((1, request.key))
            self._written[request.key] = None
        shown = [old] if request.prev_kv and old is not None else []
        body = rpc_pb2.DeleteRangeResponse(deleted=int(old is not None), prev_kvs=shown)
        return rpc_pb2.ResponseOp(response_delete_range=body)


def _values(request: rpc_pb2.TxnRequest) -> list[bytes]:
    """The values of all puts, of both branches."""
    found = []
    for op in (*request.success, *request.failure):
        if op.WhichOneof("request") == "request_put":
            found.append(op.request_put.value)
        elif op.WhichOneof("request") == "request_txn":
            found += _values(op.request_txn)
    return found


def _deletions(response: rpc_pb2.TxnResponse) -> int:
    return sum(
        _deletions(op.response_txn)
        if op.WhichOneof("response") == "response_txn"
        else op.response_delete_range.deleted
        for op in response.responses
    )


def _strip(response: rpc_pb2.TxnResponse) -> None:
    """Leave out the headers: their revisions are GEN-04's business."""
    response.ClearField("header")
    for op in response.responses:
        kind = op.WhichOneof("response")
        if kind == "response_txn":
            _strip(op.response_txn)
        elif kind is not None:
            getattr(op, kind).ClearField("header")


def _without_value(kv: KeyValue) -> KeyValue:
    copy = KeyValue.FromString(kv.SerializeToString())
    copy.ClearField("value")
    return copy
