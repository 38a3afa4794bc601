"""The naive model: every revision ever written in one list, every answer found by replaying it.

It shares no code with the store, only the protobuf messages. Slow and plain on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kvstore.errors import COMPACTED, FUTURE_REV, KEY_NOT_FOUND, LEASE_NOT_FOUND, EtcdError
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.rpc_pb2 import Compare, RangeRequest

State = dict[bytes, KeyValue]


@dataclass(slots=True)
class Written:
    """One revision of one key."""

    main: int
    sub: int
    key: bytes
    key_value: KeyValue | None
    """None: deleted."""


@dataclass(slots=True)
class Model:
    """The state of a member, and what it answers."""

    revision: int = 1
    compact_revision: int = -1
    written: list[Written] = field(default_factory=list)
    leases: frozenset[int] = frozenset()

    def copy(self) -> Model:
        """What a commit saves; entries of `written` never change."""
        return replace(self, written=list(self.written))

    def state(self, at: int) -> State:
        found: State = {}
        for entry in self.written:
            if entry.main > at:
                break
            if entry.key_value is None:
                found.pop(entry.key, None)
            else:
                found[entry.key] = entry.key_value
        return dict(sorted(found.items()))

    # Reads.

    def range(self, request: RangeRequest, latest: int | None = None) -> rpc_pb2.RangeResponse:
        """`latest`: what revision 0 means, one more than `revision` inside a transaction."""
        latest = latest or self.revision
        at = request.revision if request.revision > 0 else latest
        if request.revision > self.revision:
            raise FUTURE_REV
        if 0 < request.revision < self.compact_revision:
            raise COMPACTED
        inside = [
            kv for key, kv in self.state(at).items() if within(key, request.key, request.range_end)
        ]
        response = rpc_pb2.RangeResponse(count=len(inside))
        response.header.revision = latest
        if request.count_only:
            return response
        low, high = request.min_mod_revision, request.max_mod_revision
        inside = [kv for kv in inside if passes_filter(kv.mod_revision, low, high)]
        low, high = request.min_create_revision, request.max_create_revision
        inside = [kv for kv in inside if passes_filter(kv.create_revision, low, high)]
        attribute = ("key", "version", "create_revision", "mod_revision", "value")
        name = attribute[request.sort_target]
        descend = request.sort_order == RangeRequest.DESCEND
        inside.sort(key=lambda kv: getattr(kv, name), reverse=descend)
        limit = request.limit if request.limit > 0 else len(inside)
        response.more = len(inside) > limit
        for kv in inside[:limit]:
            copy = response.kvs.add()
            copy.CopyFrom(kv)
            if request.keys_only:
                copy.ClearField("value")
        return response

    def history(self, start: int) -> list[tuple[int, list[tuple[int, bytes, KeyValue, KeyValue]]]]:
        """From `start` on: (revision, [(type, key, key value, previous or an empty one)])."""
        if start < self.compact_revision:
            raise COMPACTED
        revisions: dict[int, list[tuple[int, bytes, KeyValue, KeyValue]]] = {}
        for entry in self.written:
            if entry.main < start:
                continue
            before = KeyValue()
            created = entry.key_value and entry.key_value.create_revision == entry.main
            if entry.main > self.compact_revision and not created:
                before = self.state(entry.main - 1).get(entry.key, before)
            now = entry.key_value or KeyValue(key=entry.key, mod_revision=entry.main)
            kind = 1 if entry.key_value is None else 0
            revisions.setdefault(entry.main, []).append((kind, entry.key, now, before))
        return list(revisions.items())

    # Writes.

    def compact(self, revision: int) -> None:
        if revision <= self.compact_revision:
            raise COMPACTED
        if revision > self.revision:
            raise FUTURE_REV
        self.compact_revision = revision

    def kept(self) -> list[tuple[int, int, bool]]:
        """(main, sub, tombstone) of what a finished compaction leaves."""
        compact = self.compact_revision
        newest = {entry.key: entry for entry in self.written if entry.main <= compact}
        return [
            (entry.main, entry.sub, entry.key_value is None)
            for entry in self.written
            if entry.main >= compact or (entry is newest[entry.key] and entry.key_value is not None)
        ]

    def write(self, main: int, key: bytes, key_value: KeyValue | None) -> None:
        sub = sum(1 for entry in self.written if entry.main == main)
        self.written.append(Written(main, sub, key, key_value))

    def check_put(self, request: rpc_pb2.PutRequest, state: State) -> None:
        if request.lease and request.lease not in self.leases:
            raise LEASE_NOT_FOUND
        if (request.ignore_value or request.ignore_lease) and request.key not in state:
            raise KEY_NOT_FOUND

    def put_at(self, main: int, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        old = self.state(main).get(request.key)
        new = KeyValue(key=request.key, mod_revision=main)
        new.create_revision = old.create_revision if old else main
        new.version = old.version + 1 if old else 1
        new.value = old.value if old and request.ignore_value else request.value
        new.lease = old.lease if old and request.ignore_lease else request.lease
        self.write(main, request.key, new)
        return rpc_pb2.PutResponse(prev_kv=old if request.prev_kv else None)

    def delete_at(
        self, main: int, request: rpc_pb2.DeleteRangeRequest
    ) -> rpc_pb2.DeleteRangeResponse:
        response = rpc_pb2.DeleteRangeResponse()
        for key, old in self.state(main).items():
            if within(key, request.key, request.range_end):
                self.write(main, key, None)
                response.deleted += 1
                if request.prev_kv:
                    response.prev_kvs.add().CopyFrom(old)
        return response

    def finish(self) -> int:
        """Take the revision that was written last, if it is new; return the current one."""
        if self.written and self.written[-1].main > self.revision:
            self.revision = self.written[-1].main
        return self.revision

    def put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        self.check_put(request, self.state(self.revision))
        response = self.put_at(self.revision + 1, request)
        response.header.revision = self.finish()
        return response

    def delete(self, request: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.DeleteRangeResponse:
        response = self.delete_at(self.revision + 1, request)
        response.header.revision = self.finish()
        return response

    def revoke(self, lease: int) -> int:
        for key, kv in self.state(self.revision).items():
            if kv.lease == lease:
                self.write(self.revision + 1, key, None)
        self.leases -= {lease}
        return self.finish()

    def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        state = self.state(self.revision)
        self.check_txn(request, state)
        response = self.run(request, state, self.revision + 1)
        response.header.revision = self.finish()
        return response

    def check_txn(self, request: rpc_pb2.TxnRequest, state: State) -> None:
        for op in taken(request, state):
            if op.HasField("request_range"):
                revision = op.request_range.revision
                if revision > self.revision:
                    raise FUTURE_REV
                if revision and revision < self.compact_revision:
                    raise COMPACTED
            elif op.HasField("request_put"):
                self.check_put(op.request_put, state)
            elif op.HasField("request_txn"):
                self.check_txn(op.request_txn, state)

    def run(self, request: rpc_pb2.TxnRequest, state: State, main: int) -> rpc_pb2.TxnResponse:
        response = rpc_pb2.TxnResponse(succeeded=all(holds(c, state) for c in request.compare))
        response.header.SetInParent()
        for op in taken(request, state):
            out = response.responses.add()
            if op.HasField("request_put"):
                out.response_put.CopyFrom(self.put_at(main, op.request_put))
                out.response_put.header.revision = main
            elif op.HasField("request_delete_range"):
                out.response_delete_range.CopyFrom(self.delete_at(main, op.request_delete_range))
                out.response_delete_range.header.revision = self.newest(main)
            elif op.HasField("request_range"):
                found = self.range(op.request_range, self.newest(main))
                out.response_range.CopyFrom(found)
            else:
                out.response_txn.CopyFrom(self.run(op.request_txn, state, main))
        return response

    def newest(self, main: int) -> int:
        changed = bool(self.written) and self.written[-1].main == main
        return main if changed else self.revision


def within(key: bytes, start: bytes, range_end: bytes) -> bool:
    if not range_end:
        return key == start
    return key >= start and (range_end == b"\0" or key < range_end)


def passes_filter(revision: int, low: int, high: int) -> bool:
    return (not low or revision >= low) and (not high or revision <= high)


def taken(request: rpc_pb2.TxnRequest, state: State) -> list[rpc_pb2.RequestOp]:
    succeeded = all(holds(compare, state) for compare in request.compare)
    return list(request.success if succeeded else request.failure)


def holds(compare: Compare, state: State) -> bool:
    inside = [kv for key, kv in state.items() if within(key, compare.key, compare.range_end)]
    if not inside and compare.target == Compare.VALUE:
        return False
    name = ("version", "create_revision", "mod_revision", "value", "lease")[compare.target]
    wanted = getattr(compare, name)
    for kv in inside or [KeyValue()]:
        actual = getattr(kv, name)
        outcome = (actual == wanted, actual > wanted, actual < wanted, actual != wanted)
        if not outcome[compare.result]:
            return False
    return True


def outcome_of(call: object, *arguments: object) -> object:
    """What a call returns, or the error that it raises: for comparing two implementations."""
    try:
        return call(*arguments)  # type: ignore[operator]
    except EtcdError as error:
        return error.message
