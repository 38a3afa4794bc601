"""What the peer transport counts, by peer; read when somebody scrapes the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from kvstore.histogram import Histogram, exponential, joined

ROUND_TRIP_S = exponential(0.0001, 2, 16)
SNAPSHOT_S = exponential(0.1, 2, 10)
"""Seconds; buckets of etcd_network_peer_round_trip_time_… and etcd_network_snapshot_…_duration."""

_Count = Counter[int]


@dataclass(slots=True)
class SnapshotStats:
    """Whole snapshots in one direction."""

    successes: _Count = field(default_factory=Counter)
    failures: _Count = field(default_factory=Counter)
    inflight: _Count = field(default_factory=Counter)
    seconds: dict[int, Histogram] = field(default_factory=dict)
    """How long those that succeeded took."""

    def all_seconds(self) -> Histogram:
        """Return the times of all peers together."""
        return joined((Histogram(SNAPSHOT_S), *self.seconds.values()))

    def begin(self, peer: int) -> None:
        self.inflight[peer] += 1

    def end(self, peer: int, *, ok: bool, seconds: float) -> None:
        """Count the end of what `begin` counted."""
        self.inflight[peer] -= 1
        if ok:
            self.successes[peer] += 1
            _histogram(self.seconds, peer, SNAPSHOT_S).observe(seconds)
        else:
            self.failures[peer] += 1


@dataclass(slots=True)
class Stats:
    """Counters since start, and who is connected now."""

    sent: _Count = field(default_factory=Counter)
    received: _Count = field(default_factory=Counter)
    """Bytes."""
    send_failures: _Count = field(default_factory=Counter)
    """Messages dropped because there was no connection or too much waited on it, and snapshots."""
    receive_failures: _Count = field(default_factory=Counter)
    """Streams ended because of what came on them."""
    connected: dict[int, float] = field(default_factory=dict)
    """Since when, in the loop's time, and in the order of that."""
    disconnects: _Count = field(default_factory=Counter)
    round_trips: dict[int, Histogram] = field(default_factory=dict)
    snapshots_sent: SnapshotStats = field(default_factory=SnapshotStats)
    snapshots_received: SnapshotStats = field(default_factory=SnapshotStats)

    def connect(self, peer: int, now: float) -> None:
        self.connected[peer] = now

    def disconnect(self, peer: int) -> None:
        """Count the loss of a connection, if there was one."""
        if peer in self.connected:
            del self.connected[peer]
            self.disconnects[peer] += 1

    def longest_connected(self, peers: Container[int]) -> int | None:
        """Return the one of `peers` that is connected for the longest time, None without one."""
        return next((peer for peer in self.connected if peer in peers), None)

    def round_trip(self, peer: int, seconds: float) -> None:
        """Count one measured round trip."""
        _histogram(self.round_trips, peer, ROUND_TRIP_S).observe(seconds)


def _histogram(of: dict[int, Histogram], peer: int, bounds: tuple[float, ...]) -> Histogram:
    found = of.get(peer)
    if found is None:
        found = of[peer] = Histogram(bounds)
    return found
