"""Makes sequences of requests from a seed, with every option and with values that are wrong.

The key space is small, so that requests meet; a wrong value is rare enough for most requests to go
through. What may not be here: anything learnt from an answer (see `steps.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from kvstore.pb import rpc_pb2
from kvstore.pb.rpc_pb2 import Compare, RangeRequest, RequestOp, TxnRequest
from tests.differential.steps import COMPACTED, FROM_KEY_ENCODED, HEAD, UNKNOWN_FIELD, WATCH, Step

STEPS = 40
"""Requests of a sequence."""

KEYS = (b"a", b"a\0", b"ab", b"b", b"b\xff", b"c", b"\0", b"\xff", b"\xff\xff")
"""With the marker fewer than 12: etcd's sort keeps equal ones in order only so far (RNG-21)."""

ENDS = (b"a", b"ac", b"b", b"b\xff", b"c", b"d", b"\0\0", b"\xff", b"\xff\xff\xff")
LEASES = (11, 12, -13, (1 << 63) - 1, -(1 << 63))
UNKNOWN_LEASE = 99
WATCH_IDS = (1, 2, 5, -3, 1 << 40)
FIRST_NEGATIVE_WATCH = 1000
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1

FIRST_SHORT_LEASE = 100_000
"""Ids from here on are granted for so short a time that no other request names them."""


def sequence(seed: int) -> list[Step]:
    """The steps of a seed."""
    return _Sequence(random.Random(seed)).steps()


class _Sequence:
    def __init__(self, random: random.Random) -> None:
        self._random = random
        self._number = 0

    def steps(self) -> list[Step]:
        grants = self._random.randint(0, len(LEASES))
        beginning = grants + self._random.randint(0, 8)
        makers: dict[Callable[[], Step], int] = {
            self._range: 26,
            self._put: 18,
            self._delete: 7,
            self._txn: 20,
            self._compact: 3,
            self._grant: 4,
            self._revoke: 2,
            self._time_to_live: 2,
            self._leases: 1,
            self._keep_alive: 1,
            self._hash: 2,
            self._watch: 7,
            self._cancel_watch: 1,
            self._progress: 1,
        }
        steps = []
        for self._number in range(STEPS):
            make = self._grant_at_first if self._number < grants else self._put
            if self._number >= beginning:
                (make,) = self._random.choices(list(makers), list(makers.values()))
            steps.append(make())
        return steps

    # Values.

    def _once_in(self, times: int) -> bool:
        return self._random.randrange(times) == 0

    def _pick(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _key(self) -> bytes:
        return b"" if self._once_in(50) else self._random.choice(KEYS)

    def _range_end(self) -> bytes:
        return self._pick(b"", b"", b"", b"", b"\0", b"\0", *self._random.sample(ENDS, 4))

    def _interval(self) -> dict[str, bytes]:
        if self._once_in(4):
            return {"key": b"\0", "range_end": b"\0"}
        return {"key": self._key(), "range_end": self._range_end()}

    def _value(self) -> bytes:
        if self._once_in(300):
            return bytes([self._random.randrange(256)]) * 300_000
        return self._pick(b"", b"v", b"w", b"x\0", b"\xff\xfe", b"y" * 200)

    def _revision(self) -> int:
        kind = self._random.randrange(20)
        if kind < 11:
            return HEAD - self._random.randrange(12)
        if kind < 16:
            return COMPACTED + self._random.randrange(-2, 6)
        if kind < 18:
            return HEAD + self._pick(1, 1, 2, 500)
        return self._pick(-1, -2, LOWEST, HIGHEST, 1, 0)

    def _maybe_revision(self) -> int:
        return self._revision() if self._once_in(3) else 0

    def _lease(self) -> int:
        if self._once_in(40):
            return UNKNOWN_LEASE
        return self._pick(0, 0, 0, 0, 0, 0, 0, 0, *LEASES)

    def _suffix(self) -> bytes:
        return UNKNOWN_FIELD if self._once_in(50) else b""

    def _step(self, method: str, request: Any, suffix: bytes | None = None) -> Step:
        return Step(self._number, method, request, self._suffix() if suffix is None else suffix)

    # KV.

    def _range_request(self) -> RangeRequest:
        request = RangeRequest(
            **self._interval(),
            limit=self._pick(0, 0, 0, 1, 1, 2, 3, 5, -1, 1 << 31, HIGHEST, LOWEST),
            revision=self._maybe_revision(),
            serializable=self._once_in(3),
            keys_only=self._once_in(5),
            count_only=self._once_in(8),
        )
        if self._once_in(2):
            request.sort_order = self._random.randrange(3)
            request.sort_target = self._random.randrange(5)
        if self._once_in(4):
            for name in ("min_mod", "max_mod", "min_create", "max_create"):
                if self._once_in(2):
                    setattr(request, f"{name}_revision", self._revision())
        if self._once_in(60):
            setattr(request, self._pick("sort_order", "sort_target"), self._pick(-1, 3, 5, 900))
        return request

    def _range(self) -> Step:
        request = self._range_request()
        suffix = FROM_KEY_ENCODED if not request.range_end and self._once_in(30) else None
        return self._step("KV/Range", request, suffix)

    def _put_request(self) -> rpc_pb2.PutRequest:
        request = rpc_pb2.PutRequest(
            key=self._key(), value=self._value(), lease=self._lease(), prev_kv=self._once_in(3)
        )
        if self._once_in(6):
            request.ignore_value = True
            if not self._once_in(4):
                request.value = b""
        if self._once_in(6):
            request.ignore_lease = True
            if not self._once_in(4):
                request.lease = 0
        return request

    def _put(self) -> Step:
        request = self._put_request()
        if self._once_in(400):
            request.value = b"z" * self._pick(1_572_864, 1_600_000, 2_200_000)
        return self._step("KV/Put", request)

    def _delete_request(self) -> rpc_pb2.DeleteRangeRequest:
        return rpc_pb2.DeleteRangeRequest(**self._interval(), prev_kv=self._once_in(2))

    def _delete(self) -> Step:
        return self._step("KV/DeleteRange", self._delete_request())

    def _compare(self) -> Compare:
        compare = Compare(
            key=self._key(),
            range_end=self._range_end() if self._once_in(3) else b"",
            target=self._random.randrange(5),
            result=self._random.randrange(4),
        )
        if self._once_in(40):
            setattr(compare, self._pick("target", "result"), self._pick(-1, 5, 77))
        names = ("version", "create_revision", "mod_revision", "value", "lease")
        name = names[compare.target] if 0 <= compare.target < 5 else "version"
        if self._once_in(15):
            name = self._random.choice(names)
        if self._once_in(15):
            return compare  # without what to compare with (TXN-03)
        if name == "value":
            compare.value = self._value()
        elif name == "lease":
            compare.lease = self._lease()
        elif name == "version":
            compare.version = self._pick(0, 0, 1, 1, 2, 3, -1, HIGHEST)
        else:
            setattr(compare, name, self._pick(0, 0, self._revision()))
        return compare

    def _op(self, depth: int) -> RequestOp:
        kind = self._random.randrange(40)
        if kind < 14:
            return RequestOp(request_put=self._put_request())
        if kind < 25:
            return RequestOp(request_range=self._range_request())
        if kind < 32:
            return RequestOp(request_delete_range=self._delete_request())
        if kind < 39:
            return RequestOp(request_txn=self._txn_request(depth - 1) if depth else TxnRequest())
        return RequestOp() if self._once_in(3) else RequestOp(request_range=RangeRequest(key=b"a"))

    def _txn_request(self, depth: int) -> TxnRequest:
        count = self._random.randrange
        request = TxnRequest(
            compare=[self._compare() for _ in range(self._pick(0, 0, 1, 1, 2))],
            success=[self._op(depth) for _ in range(count(5))],
            failure=[self._op(depth) for _ in range(count(4))],
        )
        if self._once_in(5):  # reads alone, which need no log (TXN-21)
            for branch in (request.success, request.failure):
                for op in branch:
                    op.request_range.CopyFrom(self._range_request())
        return request

    def _txn(self) -> Step:
        shape = self._random.randrange(50)
        if shape == 0:
            request = self._wide_txn()
        elif shape == 1:
            request = self._deep_txn()
        else:
            request = self._txn_request(self._pick(0, 0, 1, 2, 3))
        return self._step("KV/Txn", request)

    def _wide_txn(self) -> TxnRequest:
        """About as many operations as are allowed (TXN-11); they add no keys."""
        request = TxnRequest()
        count = self._pick(127, 128, 129)
        where = self._random.randrange(3)
        if where == 0:
            request.compare.extend(self._compare() for _ in range(count))
        else:
            branch = request.success if where == 1 else request.failure
            for _ in range(count):
                delete = rpc_pb2.DeleteRangeRequest(key=self._random.choice(KEYS))
                branch.append(RequestOp(request_delete_range=delete))
            if self._once_in(2):
                branch[0].request_txn.CopyFrom(self._txn_request(0))
        return request

    def _deep_txn(self) -> TxnRequest:
        """Many levels, one operation each; 45 are as deep as this project's own parser goes."""
        request = self._txn_request(0)
        for _ in range(self._random.randrange(5, 45)):
            request = TxnRequest(
                compare=[self._compare()] if self._once_in(4) else [],
                success=[RequestOp(request_txn=request)],
            )
            if self._once_in(3):
                request.failure.append(self._op(0))
        return request

    def _compact(self) -> Step:
        revision = self._pick(self._revision(), HEAD - self._random.randrange(10), COMPACTED + 1)
        request = rpc_pb2.CompactionRequest(revision=revision, physical=self._once_in(2))
        return self._step("KV/Compact", request)

    # Leases.

    def _grant_at_first(self) -> Step:
        request = rpc_pb2.LeaseGrantRequest(TTL=600, ID=LEASES[self._number])
        return self._step("Lease/LeaseGrant", request)

    def _grant(self) -> Step:
        lease_id = self._random.choice(LEASES)
        ttl = self._pick(600, 600, 3600, 9_000_000_000, 9_000_000_001, HIGHEST)
        if self._once_in(5):
            lease_id, ttl = 0, 600
        elif self._once_in(5):
            lease_id = FIRST_SHORT_LEASE + self._random.randrange(1 << 40)
            ttl = self._pick(0, 1, 2, -1, LOWEST)
        return self._step("Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id))

    def _lease_id(self) -> int:
        return self._pick(*LEASES, *LEASES, UNKNOWN_LEASE, 0)

    def _revoke(self) -> Step:
        return self._step("Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=self._lease_id()))

    def _time_to_live(self) -> Step:
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=self._lease_id(), keys=self._once_in(2))
        return self._step("Lease/LeaseTimeToLive", request)

    def _leases(self) -> Step:
        return self._step("Lease/LeaseLeases", rpc_pb2.LeaseLeasesRequest())

    def _keep_alive(self) -> Step:
        request = rpc_pb2.LeaseKeepAliveRequest(ID=self._lease_id())
        return self._step("Lease/LeaseKeepAlive", request)

    def _hash(self) -> Step:
        revision = self._pick(0, self._revision())
        return self._step("Maintenance/HashKV", rpc_pb2.HashKVRequest(revision=revision))

    # Watches.

    def _watch_step(self, **request: Any) -> Step:
        stream = self._random.randrange(2)
        return Step(self._number, WATCH, rpc_pb2.WatchRequest(**request), stream=stream)

    def _watch(self) -> Step:
        interval = {"range_end": b"\0"} if self._once_in(3) else self._interval()
        create = rpc_pb2.WatchCreateRequest(
            **interval,
            start_revision=self._pick(0, 0, self._revision(), self._revision()),
            progress_notify=self._once_in(4),
            filters=self._pick([], [], [], [0], [1], [0, 1], [1, 1], [7]),
            prev_kv=self._once_in(2),
            watch_id=self._random.choice(WATCH_IDS) if self._once_in(4) else 0,
            fragment=self._once_in(4),
        )
        if create.start_revision < 0:  # older etcd makes such a watch: its id must not meet others
            create.watch_id = FIRST_NEGATIVE_WATCH + self._number
        return self._watch_step(create_request=create)

    def _cancel_watch(self) -> Step:
        watch_id = self._pick(0, 0, 0, 1, 1, 2, 3, *WATCH_IDS, 77)
        return self._watch_step(cancel_request=rpc_pb2.WatchCancelRequest(watch_id=watch_id))

    def _progress(self) -> Step:
        if self._once_in(8):
            return self._watch_step()  # of no kind: ignored (WCH-04)
        return self._watch_step(progress_request=rpc_pb2.WatchProgressRequest())
