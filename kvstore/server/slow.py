"""Says in the log which unary calls took long, in etcd's words and fields.

Two thresholds: ``--warning-unary-request-duration`` for any call, from its arrival to its answer,
and ``--warning-apply-duration`` for reads, which etcd counts among slow applies, their wait for the
read index included. With ``--log-level=debug`` every call is logged.
"""

from __future__ import annotations

import logging
from typing import Any

from google.protobuf.message import Message

from kvstore.apply.describe import describe
from kvstore.apply.txn import is_read_only_txn
from kvstore.node.apply_times import ApplyTimes
from kvstore.pb import rpc_pb2
from kvstore.rpc.grpc import Call, GrpcRouter
from kvstore.server.config import Config

log = logging.getLogger("rpc")


class SlowRequests:
    """Logs what the router finds notable."""

    def __init__(self, config: Config, times: ApplyTimes) -> None:
        self._warning_s = config.warning_unary_s
        self._times = times
        self._all = config.log_level == "debug"

    def watch(self, router: GrpcRouter) -> None:
        """Begin to log the unary calls of a router."""
        router.notable_s = -1.0 if self._all else min(self._warning_s, self._times.warning_s)
        router.on_notable = self._took

    def _took(
        self, call: Call, request: Message | None, response: bytes | None, seconds: float
    ) -> None:
        if seconds > self._times.warning_s and (prefix := _read_prefix(request)):
            self._times.warn(seconds, prefix, describe(request) if request else "", "")
        if self._all or seconds > self._warning_s:
            level = logging.DEBUG if self._all else logging.WARNING
            log.log(level, "request stats", extra=_stats(call, request, response, seconds))


def _read_prefix(request: Message | None) -> str:
    if isinstance(request, rpc_pb2.RangeRequest):
        return "read-only range "
    if isinstance(request, rpc_pb2.TxnRequest) and is_read_only_txn(request):
        return "read-only txn "
    return ""


def _stats(
    call: Call, request: Message | None, response: bytes | None, seconds: float
) -> dict[str, Any]:
    return {
        "time spent": f"{seconds * 1000:.3f}ms",
        "remote": call.peer,
        "response type": call.path,
        "request size": -1 if request is None else request.ByteSize(),
        "response size": -1 if response is None else len(response),
        "request content": "" if request is None else describe(request),
    }
