"""Prometheus metrics under etcd's names, read from plain counters when somebody scrapes.

Nothing here is touched while requests are served: the parts of the server count in their own ints
and :class:`Histogram` objects, and a collector turns a snapshot of those into exposition text. The
price is that a metric's type and help live in one table here, away from the code that counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from kvstore.rpc.grpc import Method


def _go_float(value: float) -> str:
    """Spell a bucket's bound as Go does: shortest form, no ".0", exponent from 1e+06 on."""
    return repr(value).removesuffix(".0") if value < 1e6 else f"{value:g}"


def exponential(start: float, factor: float, count: int) -> tuple[float, ...]:
    """Return ``count`` upper bounds of buckets: start, start·factor, start·factor²…"""
    return tuple(start * factor**i for i in range(count))


DISK_BUCKETS: Final = exponential(0.001, 2, 14)
"""Seconds; of etcd_disk_wal_fsync_duration_seconds and etcd_disk_backend_commit_…"""


class Histogram:
    """Observations counted into buckets. Not for two threads at once.

    Attributes:
        bounds: ascending upper bounds, inclusive; what is above the last counts as +Inf.
        total: sum of all observations.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = DISK_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation, in the unit of ``bounds``."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (le, observations up to it) for each bucket, +Inf last."""
        names = [_go_float(bound) for bound in self.bounds] + ["+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


Labelled = Mapping[tuple[str, ...], float]
"""Label values, in the order of the metric's label names → value."""

Value = float | Histogram | Labelled


class MetricsSource(Protocol):
    """What the server implements to be measured."""

    def metrics(self) -> Mapping[str, Value]:
        """Return the current values by metric name; a name left out is not exposed.

        Values are floats, a :class:`Histogram`, or for metrics with labels a mapping. Called on the
        event loop, once for each scrape; must not block.
        """
        ...


class Spec(NamedTuple):
    """Type, help and label names of one metric."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


SPECS: Final[Mapping[str, Spec]] = {
    "etcd_server_has_leader": Spec("gauge", "1 if a leader is known to this member, else 0."),
    "etcd_server_is_leader": Spec("gauge", "1 if this member is the leader, else 0."),
    "etcd_server_is_learner": Spec("gauge", "1 if this member is a learner, else 0."),
    "etcd_server_leader_changes_seen_total": Spec("counter", "Changes of leader seen."),
    "etcd_server_proposals_committed_total": Spec("gauge", "Index of the last committed entry."),
    "etcd_server_proposals_applied_total": Spec("gauge", "Index of the last applied entry."),
    "etcd_server_proposals_pending": Spec("gauge", "Proposals waiting to be applied."),
    "etcd_server_proposals_failed_total": Spec("counter", "Proposals that failed."),
    "etcd_server_quota_backend_bytes": Spec("gauge", "Quota of the backend in bytes."),
    "etcd_server_version": Spec("gauge", "Version of this server.", ("server_version",)),
    "etcd_cluster_version": Spec("gauge", "Version of the cluster.", ("cluster_version",)),
    "etcd_server_id": Spec("gauge", "ID of this member, hexadecimal.", ("server_id",)),
    "etcd_mvcc_put_total": Spec("counter", "Puts seen by this member."),
    "etcd_mvcc_range_total": Spec("counter", "Ranges seen by this member."),
    "etcd_mvcc_delete_total": Spec("counter", "Deletes seen by this member."),
    "etcd_mvcc_txn_total": Spec("counter", "Transactions seen by this member."),
    "etcd_mvcc_db_total_size_in_bytes": Spec("gauge", "Size of the database file."),
    "etcd_mvcc_db_total_size_in_use_in_bytes": Spec("gauge", "Part of the database in use."),
    "etcd_debugging_mvcc_current_revision": Spec("gauge", "Current revision of the store."),
    "etcd_debugging_mvcc_compact_revision": Spec("gauge", "Last compacted revision."),
    "etcd_debugging_mvcc_keys_total": Spec("gauge", "Keys in the store."),
    "etcd_debugging_mvcc_watcher_total": Spec("gauge", "Watchers."),
    "etcd_debugging_mvcc_watch_stream_total": Spec("gauge", "Watch streams."),
    "etcd_debugging_mvcc_slow_watcher_total": Spec("gauge", "Watchers that lag behind."),
    "etcd_disk_wal_fsync_duration_seconds": Spec("histogram", "Time of one fsync of the WAL."),
    "etcd_disk_backend_commit_duration_seconds": Spec(
        "histogram", "Time of one commit of the backend."
    ),
    "etcd_network_peer_sent_bytes_total": Spec("counter", "Bytes sent to peers.", ("To",)),
    "etcd_network_peer_received_bytes_total": Spec(
        "counter", "Bytes received from peers.", ("From",)
    ),
    # Counters in etcd; here gauges, because the client library adds "_total" to a counter's name.
    "etcd_network_snapshot_send_success": Spec("gauge", "Snapshots sent.", ("To",)),
    "etcd_network_snapshot_receive_success": Spec("gauge", "Snapshots received.", ("From",)),
    "etcd_network_client_grpc_sent_bytes_total": Spec("counter", "Bytes sent to gRPC clients."),
    "etcd_network_client_grpc_received_bytes_total": Spec(
        "counter", "Bytes received from gRPC clients."
    ),
}

CODE_NAMES: Final = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound"),
    *("AlreadyExists", "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted"),
    *("OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
"""Values of the label grpc_code, by number: Go's names of the codes."""

_METHOD_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")


def exposition(
    source: MetricsSource, methods: Callable[[], Iterable[Method]]
) -> Callable[[], bytes]:
    """Return the function that makes one scrape's text (format 0.0.4).

    Args:
        source: the server's own values.
        methods: the RPCs with their counters (``GrpcRouter.methods.values``).
    """
    registry = CollectorRegistry()
    registry.register(_ServerCollector(source))
    registry.register(_GrpcCollector(methods))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


class _ServerCollector(Collector):
    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not ask the source before it is ready."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, value in self._source.metrics().items():
            yield _family(name, SPECS[name], value)


def _family(name: str, spec: Spec, value: Value) -> Metric:
    if isinstance(value, Histogram):
        histogram = HistogramMetricFamily(name, spec.help)
        histogram.add_metric((), value.cumulative(), value.total)
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if spec.kind == "counter":
        family = CounterMetricFamily(name, spec.help, labels=spec.labels)
    else:
        family = GaugeMetricFamily(name, spec.help, labels=spec.labels)
    series = value if isinstance(value, Mapping) else {(): value}
    for labels, number in series.items():
        if len(labels) != len(spec.labels):
            raise ValueError(f"{name} has the labels {spec.labels}, not {labels}")
        family.add_metric(labels, number)
    return family


class _GrpcCollector(Collector):
    """Counters of every registered RPC; as in etcd all series exist from the start."""

    def __init__(self, methods: Callable[[], Iterable[Method]]) -> None:
        self._methods = methods

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        coded = (*_METHOD_LABELS, "grpc_code")
        started = CounterMetricFamily(
            "grpc_server_started_total", "RPCs started on the server.", labels=_METHOD_LABELS
        )
        handled = CounterMetricFamily(
            "grpc_server_handled_total", "RPCs completed, by code.", labels=coded
        )
        received = CounterMetricFamily(
            "grpc_server_msg_received_total", "Messages received.", labels=_METHOD_LABELS
        )
        sent = CounterMetricFamily(
            "grpc_server_msg_sent_total", "Messages sent.", labels=_METHOD_LABELS
        )
        for method in self._methods():
            labels = (method.kind, method.service, method.name)
            started.add_metric(labels, method.started)
            received.add_metric(labels, method.received)
            sent.add_metric(labels, method.sent)
            for code, count in zip(CODE_NAMES, method.handled, strict=True):
                handled.add_metric((*labels, code), count)
        yield from (started, handled, received, sent)
