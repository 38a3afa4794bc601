"""Leases: which exist, which keys hang on them and, on the leader, when they expire.

Everything replicated (grant, revoke, checkpoint, attachments) changes only when an entry is
applied, so it is the same on all members. Expiry times are the leader's own knowledge (LSE-20,
LSE-23): `promote` makes them up, `demote` forgets them, renewals only move them. This module never
deletes a key and proposes nothing; it says what is due and the node does the rest.

Trade-off: a renewal, by far the most frequent call, is one assignment; the heap of due times
learns of it only when the old time comes up. So the heap may hold outdated times, never late ones.

Times: `now` is monotonic seconds and must not go backwards between calls; TTLs are whole seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from kvstore import errors
from kvstore.histogram import Histogram, exponential
from kvstore.lease import wire
from kvstore.lease.checkpoints import CheckpointSchedule
from kvstore.storage.backend import LEASES, Backend

MAX_TTL_S = 9_000_000_000
"""The longest TTL that can be granted (LSE-02)."""

TTL_BUCKETS_S = exponential(1, 2, 24)
"""Of etcd_debugging_lease_ttl_total."""

EXPIRED_LIMIT = 500
"""Leases handed out for revocation at once (LSE-20)."""

EXPIRY_CHECKS = 5_000
"""Leases that one `expired` looks at, most of them renewed since; bounds its time to ~10 ms."""

REVOKE_RETRY_S = 3.0
"""An expired lease that is still there after this time is handed out again (LSE-20)."""

SPREAD_MIN_LEASES = 1000
"""From this many leases on a new leader spreads their expiries (LSE-22)."""

SPREAD_PER_SECOND = 750
"""Leases that may fall due per second after a promotion that spreads; stays below what
`EXPIRED_LIMIT` per half second can revoke."""

STALE_HEAP_SLACK = 1024
"""Outdated heap entries tolerated beyond one for each lease before the heap is rebuilt."""

RENEW_UNKNOWN = 0
"""`renew`: there is no such lease (LSE-06)."""

RENEW_EXPIRED = -1
"""`renew`: past its expiry and not yet revoked; wait for the revocation or for the loss of
leadership, then ask again (LSE-11)."""


class RandomBits(Protocol):
    """The part of `random.Random` that picking an id needs."""

    def getrandbits(self, k: int, /) -> int: ...


@dataclass(slots=True)
class Lease:
    """One granted lease."""

    ttl_s: int
    """Granted TTL, after raising to the minimum."""
    remaining_s: int = 0
    """Checkpointed rest in seconds; 0 = none, the full TTL counts (LSE-24)."""
    expiry: float = math.inf
    """Monotonic seconds at which the lease ends; infinite on members that do not lead."""
    due: float = math.inf
    """Time of the one heap entry that counts for this lease; due <= expiry until handed out."""
    keys: set[bytes] = field(default_factory=set)
    checkpoint_due: float = math.inf
    """Time of its entry in the checkpoint schedule; infinite without one."""
    handed_out: int = 0
    """Number of the last checkpoint that was handed out to be proposed, 0 = none in this term."""
    settled: int = 0
    """Number of the last one that is known to be taken back or never to be applied."""

    @property
    def rest_s(self) -> int:
        """What a new leader gives it, seconds."""
        return self.remaining_s or self.ttl_s


class Lessor:
    """All leases of the store. See the module docstring for what it does and does not do.

    Attributes:
        granted, renewed, revoked: how often, since start; renewals by this member as leader.
        ttls: the granted TTLs, seconds.
    """

    __slots__ = (
        "_backend",
        "_checkpoints",
        "_heap",
        "_lease_of",
        "_leases",
        "_min_ttl_s",
        "_primary",
        "granted",
        "renewed",
        "revoked",
        "ttls",
    )

    def __init__(
        self, backend: Backend, *, min_ttl: int, checkpoint_interval_s: float = math.inf
    ) -> None:
        """Start empty; `restore` loads what `backend` holds.

        Args:
            min_ttl: shortest effective TTL in seconds, >= 1 (LSE-03: 1.5 election timeouts).
            checkpoint_interval_s: how often long leases are due for a checkpoint; by default never.

        Raises:
            ValueError: `min_ttl` is below 1.
        """
        if min_ttl < 1:
            raise ValueError(f"min_ttl: {min_ttl} is not at least 1 second")
        self._backend = backend
        self._min_ttl_s = min_ttl
        self._leases: dict[int, Lease] = {}
        self._lease_of: dict[bytes, int] = {}
        self._heap: list[tuple[float, int]] = []
        self._primary = False
        self._checkpoints = CheckpointSchedule(checkpoint_interval_s)
        self.granted = self.renewed = self.revoked = 0
        self.ttls = Histogram(TTL_BUCKETS_S)

    # Replicated state: changed by applied entries only, equal on all members.

    def restore(self, attachments: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """Load the leases from the backend, after a start or an installed snapshot (LSE-23).

        Args:
            attachments: (key, lease id) of the latest version of each live key with a lease.

        Returns:
            The keys whose lease does not exist. They stay without a lease; a healthy store has
            none, so the caller should report them.

        The member does not lead afterwards until `promote`.
        """
        self._primary = False
        self._heap = []
        self._lease_of = {}
        self._leases = {}
        self._checkpoints.clear({})
        for key, value in self._backend.scan(LEASES, b"", None):
            lease_id, ttl_s, remaining_s = wire.decode_lease(key, value)
            self._leases[lease_id] = Lease(ttl_s, remaining_s)
        dangling = []
        for key, lease_id in attachments:
            if lease_id in self._leases:
                self.attach(lease_id, key)
            else:
                dangling.append(key)
        return dangling

    def pick_id(self, random: RandomBits) -> int:
        """Return a positive 63-bit id that is not in use here (LSE-01).

        The proposer picks it, before proposing, so that all members apply the same id.
        """
        while True:
            lease_id = random.getrandbits(63)
            if lease_id != 0 and lease_id not in self._leases:
                return lease_id

    def grant(self, lease_id: int, ttl: int, now: float) -> int:
        """Create a lease and return its effective TTL in seconds (LSE-01..03).

        Args:
            lease_id: any int64 but 0; 0 means "pick one", which is over before proposing.
            ttl: wanted seconds; below the minimum, 0 and negative too, it is raised.

        Raises:
            EtcdError: LEASE_NOT_FOUND for id 0, LEASE_TTL_TOO_LARGE, LEASE_EXIST.
        """
        if lease_id == 0:
            raise errors.LEASE_NOT_FOUND
        if ttl > MAX_TTL_S:
            raise errors.LEASE_TTL_TOO_LARGE
        if lease_id in self._leases:
            raise errors.LEASE_EXIST
        lease = Lease(max(ttl, self._min_ttl_s))
        self._backend.put(LEASES, wire.encode_id(lease_id), wire.encode_lease(lease.ttl_s, 0))
        self._leases[lease_id] = lease
        self.granted += 1
        self.ttls.observe(lease.ttl_s)
        if self._primary:
            lease.expiry = lease.due = now + lease.ttl_s
            heapq.heappush(self._heap, (lease.due, lease_id))
            self._checkpoints.add(lease_id, lease, now)
        return lease.ttl_s

    def revoke(self, lease_id: int) -> list[bytes]:
        """Forget a lease and its attachments and return its keys in byte order (LSE-12, LSE-14).

        The caller deletes the keys, all in one revision.

        Raises:
            EtcdError: LEASE_NOT_FOUND (LSE-13).
        """
        lease = self._get(lease_id)
        self._backend.delete(LEASES, wire.encode_id(lease_id))
        del self._leases[lease_id]
        self.revoked += 1
        for key in lease.keys:
            del self._lease_of[key]
        if len(self._heap) > 2 * len(self._leases) + STALE_HEAP_SLACK:
            self._rebuild_heap()
        return sorted(lease.keys)

    def checkpoint(self, lease_id: int, remaining: int, now: float) -> None:
        """Remember how many seconds are left, 0 = the full TTL (LSE-24).

        A later `promote`, on any member, counts from here. `is_checkpointed` tells whether a
        renewal must be preceded by `checkpoint(id, 0)`, or a failover could end the lease early.

        Raises:
            EtcdError: LEASE_NOT_FOUND.
        """
        lease = self._get(lease_id)
        lease.remaining_s = min(max(remaining, 0), lease.ttl_s)
        value = wire.encode_lease(lease.ttl_s, lease.remaining_s)
        self._backend.put(LEASES, wire.encode_id(lease_id), value)
        if self._primary:
            self._checkpoints.add(lease_id, lease, now)

    def attach(self, lease_id: int, key: bytes) -> None:
        """Hang `key` on a lease, taking it off the one it hung on (LSE-14).

        Raises:
            EtcdError: LEASE_NOT_FOUND; the key then stays where it was.
        """
        lease = self._get(lease_id)
        self.detach(key)
        lease.keys.add(key)
        self._lease_of[key] = lease_id

    def detach(self, key: bytes) -> None:
        """Take `key` off its lease, if it has one: it was deleted or written with lease 0."""
        lease_id = self._lease_of.pop(key, 0)
        if lease_id != 0:
            self._leases[lease_id].keys.discard(key)

    def exists(self, lease_id: int) -> bool:
        """Tell whether the lease is granted and not revoked (expired ones still exist)."""
        return lease_id in self._leases

    def lease_of(self, key: bytes) -> int:
        """Return the id of the lease that `key` hangs on, 0 = none."""
        return self._lease_of.get(key, 0)

    def ttl(self, lease_id: int) -> int:
        """Return the granted TTL in seconds. Raises EtcdError: LEASE_NOT_FOUND."""
        return self._get(lease_id).ttl_s

    def keys(self, lease_id: int) -> list[bytes]:
        """Return the attached keys in no set order (LSE-16). Raises EtcdError: LEASE_NOT_FOUND."""
        return list(self._get(lease_id).keys)

    def __len__(self) -> int:
        """Return how many leases there are."""
        return len(self._leases)

    def ids(self) -> list[int]:
        """Return all lease ids: on the leader soonest expiry first, else ascending (LSE-19)."""
        leases = self._leases
        return sorted(leases, key=lambda lease_id: (leases[lease_id].expiry, lease_id))

    # Expiry: the leader's own knowledge.

    @property
    def is_primary(self) -> bool:
        """Whether this member leads and therefore keeps expiry times."""
        return self._primary

    def promote(self, now: float, extend: float) -> None:
        """Begin to expire leases, after the leader applied its own first entry (LSE-21, LSE-22).

        Every lease gets its full TTL (or checkpointed rest) plus `extend` seconds, one election
        timeout: the former leader may have acknowledged a renewal until just now. From
        `SPREAD_MIN_LEASES` leases on, expiries are moved further apart, later and never earlier.
        Promoting a leader again (a new term) gives every lease at least what it had.
        """
        heap = []
        for lease_id, lease in self._leases.items():
            expiry = now + lease.rest_s + extend
            heap.append((max(expiry, lease.expiry) if self._primary else expiry, lease_id))
        heap.sort()  # a sorted list is a heap
        if len(heap) >= SPREAD_MIN_LEASES:
            heap = _spread(heap)
        self._checkpoints.clear(self._leases)
        for expiry, lease_id in heap:
            lease = self._leases[lease_id]
            lease.expiry = lease.due = expiry
            self._checkpoints.add(lease_id, lease, now)
        self._heap = heap
        self._primary = True

    def demote(self) -> None:
        """Stop expiring: this member leads no longer (LSE-23)."""
        self._primary = False
        self._heap = []
        self._checkpoints.clear(self._leases)
        for lease in self._leases.values():
            lease.expiry = lease.due = math.inf

    def renew(self, lease_id: int, now: float) -> int:
        """Start the TTL again and return it in seconds (LSE-05, LSE-08).

        Returns:
            The granted TTL, `RENEW_UNKNOWN` (0), or `RENEW_EXPIRED` (-1): an expired lease is
            never revived (LSE-11).

        Raises:
            EtcdError: NOT_PRIMARY_LESSOR when this member does not lead.
        """
        if not self._primary:
            raise errors.NOT_PRIMARY_LESSOR
        lease = self._leases.get(lease_id)
        if lease is None:
            return RENEW_UNKNOWN
        if lease.expiry <= now:
            return RENEW_EXPIRED
        # The extension of a promotion may reach further than a fresh TTL: never shorten.
        lease.expiry = max(lease.expiry, now + lease.ttl_s)
        self.renewed += 1
        return lease.ttl_s

    def remaining(self, lease_id: int, now: float) -> int:
        """Return the whole seconds left, rounded towards 0; 0 or below = expired (LSE-16, LSE-17).

        Raises:
            EtcdError: NOT_PRIMARY_LESSOR when this member does not lead, LEASE_NOT_FOUND.
        """
        if not self._primary:
            raise errors.NOT_PRIMARY_LESSOR
        return int(self._get(lease_id).expiry - now)

    def expired(self, now: float, limit: int = EXPIRED_LIMIT) -> list[int]:
        """Return up to `limit` leases to revoke, longest overdue first; none unless leading.

        A lease handed out is handed out again after `REVOKE_RETRY_S` if it still exists, since
        the proposal to revoke it may have been lost (LSE-20).
        """
        found: list[int] = []
        heap = self._heap
        for _ in range(EXPIRY_CHECKS):
            if not heap or heap[0][0] > now or len(found) >= limit:
                break
            due, lease_id = heap[0]
            lease = self._leases.get(lease_id)
            if lease is None or lease.due != due:
                heapq.heappop(heap)  # revoked since, perhaps granted anew
                continue
            if lease.expiry > now:
                lease.due = lease.expiry  # renewed since
            else:
                lease.due = now + REVOKE_RETRY_S
                found.append(lease_id)
            heapq.heapreplace(heap, (lease.due, lease_id))
        return found

    # Checkpoints: which leases are due for one, and whether one stands against a renewal.

    def checkpoints_due(self, now: float) -> list[tuple[int, int]]:
        """Return (lease id, rest in seconds) of leases to checkpoint now; none unless leading."""
        return self._checkpoints.take(self._leases, now) if self._primary else []

    def is_checkpointed(self, lease_id: int) -> bool:
        """Tell whether a checkpoint is applied or may be on its way through the log."""
        lease = self._leases.get(lease_id)
        return lease is not None and (lease.remaining_s > 0 or lease.handed_out > lease.settled)

    def checkpoint_mark(self, lease_id: int) -> int:
        """Return the number of the last checkpoint handed out, for `settle_checkpoints`."""
        lease = self._leases.get(lease_id)
        return 0 if lease is None else lease.handed_out

    def settle_checkpoints(self, lease_id: int, mark: int) -> None:
        """Learn that what was handed out up to `mark` precedes an entry that is applied now."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.settled = max(lease.settled, mark)

    def _get(self, lease_id: int) -> Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise errors.LEASE_NOT_FOUND
        return lease

    def _rebuild_heap(self) -> None:
        self._heap = [(lease.due, lease_id) for lease_id, lease in self._leases.items()]
        heapq.heapify(self._heap)


def _spread(expiries: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Move sorted expiries to at least 1/`SPREAD_PER_SECOND` s after one another (LSE-22)."""
    step = 1 / SPREAD_PER_SECOND
    earliest = -math.inf
    spread = []
    for expiry, lease_id in expiries:
        later = max(expiry, earliest)
        spread.append((later, lease_id))
        earliest = later + step
    return spread
