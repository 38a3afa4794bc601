"""How long applying entries takes: counted for the metrics, logged when it is too long.

Times are only measured here; nothing that is replicated may depend on them (RFT-11).
"""

from __future__ import annotations

import logging
from typing import Any, Final

from kvstore.apply.describe import describe
from kvstore.errors import COMPACTED, EtcdError
from kvstore.histogram import FAST_S, Histogram
from kvstore.node.request import HEADER_SIZE, Kind
from kvstore.pb import rpc_pb2

log = logging.getLogger("apply")

OPERATIONS: Final = {
    Kind.PUT: "Put",
    Kind.DELETE_RANGE: "DeleteRange",
    Kind.TXN: "Txn",
    Kind.COMPACT: "Compaction",
    Kind.LEASE_GRANT: "LeaseGrant",
    Kind.LEASE_REVOKE: "LeaseRevoke",
    Kind.PUBLISH: "ClusterMemberAttrSet",
    Kind.CLUSTER_VERSION: "ClusterVersionSet",
    Kind.ALARM: "Alarm",
    Kind.LEASE_CHECKPOINT: "LeaseCheckpoint",
    Kind.MEMBER_UPDATE: "MemberUpdate",
    Kind.MEMBER_ADD: "MemberAdd",
    Kind.MEMBER_REMOVE: "MemberRemove",
    Kind.MEMBER_PROMOTE: "MemberPromote",
}
"""What etcd calls each kind of request, in metrics and in the log."""

_MESSAGES: Final[dict[int, Any]] = {
    Kind.PUT: rpc_pb2.PutRequest,
    Kind.DELETE_RANGE: rpc_pb2.DeleteRangeRequest,
    Kind.TXN: rpc_pb2.TxnRequest,
    Kind.COMPACT: rpc_pb2.CompactionRequest,
    Kind.LEASE_GRANT: rpc_pb2.LeaseGrantRequest,
    Kind.LEASE_REVOKE: rpc_pb2.LeaseRevokeRequest,
    Kind.ALARM: rpc_pb2.AlarmRequest,
}


def operation(kind: int) -> str:
    """Return etcd's name of a kind."""
    return OPERATIONS.get(Kind(kind)) or Kind(kind).name


class ApplyTimes:
    """Durations of applies by kind of request, in seconds. Fed by the member that applies.

    Attributes:
        warning_s: what takes longer is logged (``--warning-apply-duration``).
        slow_count: how much did.
        ok, failed: by kind; the answer "compacted" is no failure, as in etcd.
    """

    __slots__ = ("failed", "ok", "slow_count", "warning_s")

    def __init__(self, warning_s: float) -> None:
        self.warning_s = warning_s
        self.slow_count = 0
        self.ok: dict[int, Histogram] = {kind: Histogram(FAST_S) for kind in Kind}
        self.failed: dict[int, Histogram] = {kind: Histogram(FAST_S) for kind in Kind}

    def slow(self, data: bytes, took: float, error: EtcdError | None = None) -> None:
        """Count and log an entry whose apply took longer than ``warning_s``."""
        message = _MESSAGES.get(data[0])
        request = operation(data[0])
        if message is not None:
            request += f":<{describe(message.FromString(data[HEADER_SIZE:]))} >"
        self.warn(took, "", request, "" if error is None else error.message)

    def refused(self, data: bytes, took: float, error: EtcdError) -> None:
        """Count an entry that was answered by an error."""
        if took > self.warning_s:
            self.slow(data, took, error)
        counted = self.ok if error.message == COMPACTED.message else self.failed
        counted[data[0]].observe(took)

    def warn(self, took: float, prefix: str, request: str, error: str) -> None:
        """Count and log what took too long, as etcd words it; reads have a prefix of their own."""
        self.slow_count += 1
        fields = {
            "took": f"{took * 1000:.3f}ms",
            "expected-duration": f"{self.warning_s * 1000:g}ms",
            "prefix": prefix,
            "request": request,
        }
        if error:
            fields["error"] = error
        log.warning("apply request took too long", extra=fields)
