"""What a `GrpcRouter` counts, under the names of go-grpc-middleware and etcd's own.

The router counts plain ints while it serves; everything here runs when somebody scrapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kvstore.histogram import Histogram, joined
from kvstore.rpc.exposition import Spec, Value
from kvstore.rpc.grpc import HANDLING_S, REQUEST_S, GrpcRouter, Method, Timing

CODE_NAMES: Final = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound"),
    *("AlreadyExists", "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted"),
    *("OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
"""Values of the label grpc_code, by number: Go's names of the codes."""

_METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")

GRPC_SPECS: Final[Mapping[str, Spec]] = {
    "grpc_server_started_total": Spec("counter", "RPCs started.", _METHOD),
    "grpc_server_handled_total": Spec(
        "counter", "RPCs completed, by code.", (*_METHOD, "grpc_code")
    ),
    "grpc_server_msg_received_total": Spec("counter", "Messages received in RPCs.", _METHOD),
    "grpc_server_msg_sent_total": Spec("counter", "Messages sent in RPCs.", _METHOD),
    "grpc_server_handling_seconds": Spec(
        "histogram", "Time from an RPC's start to its end.", _METHOD, HANDLING_S
    ),
    "etcd_network_client_grpc_sent_bytes_total": Spec("counter", "Bytes sent to gRPC clients."),
    "etcd_network_client_grpc_received_bytes_total": Spec(
        "counter", "Bytes received from gRPC clients."
    ),
    "etcd_network_server_stream_failures_total": Spec(
        "counter", "Streams that broke while sending or receiving.", ("Type", "API")
    ),
    "etcd_server_client_requests_total": Spec(
        "counter", "Calls by the client's version.", ("type", "client_api_version")
    ),
}

_STREAM_APIS: Final = {
    "/etcdserverpb.Watch/Watch": "watch",
    "/etcdserverpb.Lease/LeaseKeepAlive": "lease-keepalive",
}


def grpc_metrics(router: GrpcRouter, *, extensive: bool) -> dict[str, Value]:
    """Return the values of `GRPC_SPECS`; as in etcd all series of an RPC exist from the start.

    Args:
        extensive: with grpc_server_handling_seconds (``--metrics=extensive``); the methods must
            have a `Timing`.
    """
    methods = list(router.methods.values())
    values: dict[str, Value] = {
        "grpc_server_started_total": {_labels(m): m.started for m in methods},
        "grpc_server_handled_total": _handled(methods),
        "grpc_server_msg_received_total": {_labels(m): m.received for m in methods},
        "grpc_server_msg_sent_total": {_labels(m): m.sent for m in methods},
        "etcd_network_client_grpc_sent_bytes_total": router.sent_bytes,
        "etcd_network_client_grpc_received_bytes_total": router.received_bytes,
        "etcd_network_server_stream_failures_total": _stream_failures(router),
        "etcd_server_client_requests_total": {
            (kind, version.decode()): count
            for kind, counts in (("unary", router.unary_clients), ("stream", router.stream_clients))
            for version, count in counts.items()
        },
    }
    if extensive:
        values["grpc_server_handling_seconds"] = {
            _labels(m): joined((m.timing.ok, m.timing.failed)).in_buckets(HANDLING_S)
            for m in methods
            if m.timing is not None
        }
    return values


def request_durations(timing: Timing, kind: str) -> dict[tuple[str, ...], Histogram]:
    """Return the series of etcd_server_request_duration_seconds for one kind of request."""
    return {
        (kind, "true"): timing.ok.in_buckets(REQUEST_S),
        (kind, "false"): timing.failed.in_buckets(REQUEST_S),
    }


def _labels(method: Method) -> tuple[str, ...]:
    return method.kind, method.service, method.name


def _handled(methods: Iterable[Method]) -> dict[tuple[str, ...], float]:
    return {
        (method.kind, method.service, method.name, code): count
        for method in methods
        for code, count in zip(CODE_NAMES, method.handled, strict=True)
    }


def _stream_failures(router: GrpcRouter) -> dict[tuple[str, ...], float]:
    failures: dict[tuple[str, ...], float] = {}
    for path, api in _STREAM_APIS.items():
        method = router.methods.get(path)
        if method is not None:
            failures["send", api] = method.send_failures
            failures["receive", api] = method.receive_failures
    return failures
