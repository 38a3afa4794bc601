"""The quota of this member's backend: the two checks, and the one alarm they raise (MNT-13..17).

The size that counts is what the backend's file has ever needed since it was made or defragmented
(`Backend.size`), so compaction alone brings nothing back; and what waits for the next commit, or a
burst within a commit interval would go far beyond the quota. The trade-off: bytes that will reuse
free pages count as growth until they are committed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from kvstore.apply.alarms import Alarms
from kvstore.apply.quota import LEASE_COST_BYTES, MAX_COST_PER_BYTE, put_cost, txn_cost
from kvstore.errors import EtcdError
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import Backend

UNLIMITED: Final = sys.maxsize

Propose = Callable[[Kind, bytes, Callable[[bytes | EtcdError], None]], None]
"""``Member.propose``."""


class Quota:
    """Checks writes against the quota.

    Attributes:
        limit: bytes; `UNLIMITED` without a quota.
    """

    __slots__ = ("_alarms", "_backend", "_member_id", "_propose", "_waiting", "limit", "size")

    def __init__(
        self, limit: int, backend: Backend, alarms: Alarms, member_id: int, propose: Propose
    ) -> None:
        """Args: limit: bytes, 0 for no limit."""
        self.limit = limit or UNLIMITED
        self._backend = backend
        self._alarms = alarms
        self._member_id = member_id
        self._propose = propose
        self._waiting: list[Callable[[], None]] | None = None
        self.measure()

    def measure(self) -> None:
        """Look at the backend's size again; it changes with each commit."""
        self.size = self._backend.size()

    def exceeded(self, cost: int) -> bool:
        """Tell whether a write of `cost` bytes would reach the quota (MNT-13); a free one never."""
        return self.size + self._backend.uncommitted_bytes + cost >= self.limit and cost > 0

    def near(self, entry: bytes) -> bool:
        """Tell whether a log entry may be too much: cheap, and never a false "no"."""
        worst = MAX_COST_PER_BYTE * len(entry)
        return self.size + self._backend.uncommitted_bytes + worst >= self.limit

    def exceeded_by_entry(self, kind: int, body: bytes) -> bool:
        """`exceeded` for an entry that is about to be applied."""
        if kind == Kind.PUT:
            return self.exceeded(put_cost(rpc_pb2.PutRequest.FromString(body)))
        if kind == Kind.TXN:
            return self.exceeded(txn_cost(rpc_pb2.TxnRequest.FromString(body)))
        return kind == Kind.LEASE_GRANT and self.exceeded(LEASE_COST_BYTES)

    def alarm(self, then: Callable[[], None]) -> None:
        """Raise this member's NOSPACE alarm unless it is, and call `then` when that is settled.

        However many writes meet a full backend, one proposal is under way. One that fails is
        repeated with the next write.
        """
        if self._alarms.has(self._member_id, rpc_pb2.NOSPACE):
            then()
            return
        if self._waiting is not None:
            self._waiting.append(then)
            return
        self._waiting = [then]
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=self._member_id, alarm=rpc_pb2.NOSPACE
        )
        try:
            self._propose(Kind.ALARM, request.SerializeToString(), lambda _: self._settled())
        except EtcdError:
            self._settled()

    def _settled(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for then in waiting:
            then()
