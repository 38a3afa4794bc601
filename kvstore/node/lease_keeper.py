"""The leader's side of leases: ending them, writing down what is left of them, renewing them.

Everything here first makes sure of the leadership, by a ReadIndex round, or goes through the log,
which only a leader's entries reach (LSE-09). The rule that is easy to break: once a checkpoint of a
lease is in the log, or on its way there, no renewal may be acknowledged before a later entry has
taken it back; the next leader would count from the old rest and end the lease early.
"""

from __future__ import annotations

from collections.abc import Callable

from kvstore.errors import NO_LEADER, EtcdError
from kvstore.lease import wire
from kvstore.node.member import Member, Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2

Renewed = Callable[[int | EtcdError], None]
"""Gets what `Lessor.renew` returns, or why that could not be asked."""


class LeaseKeeper:
    """Acts while the member leads; asked otherwise it does nothing, or says so.

    Attributes:
        expired: revocations of expired leases proposed so far.
    """

    def __init__(self, member: Member, now: Callable[[], float]) -> None:
        """Args: now: monotonic seconds, the lessor's time."""
        self.expired = 0
        self._member = member
        self._lessor = member.applier.lessor
        self._now = now

    def tick(self) -> None:
        """Propose what is due: once every heartbeat interval or so."""
        if self._lessor.is_primary:
            self._expire()
            self._checkpoint()

    def _expire(self) -> None:
        """Propose the revocation of leases that are due, after leadership is confirmed."""
        lessor, member = self._lessor, self._member
        due, term = lessor.expired(member.now), member.raft.term
        if not due:
            return

        def revoke(error: EtcdError | None) -> None:
            # A leadership that was lost and won again gave every lease a new full TTL (LSE-21).
            if error is None and lessor.is_primary and member.raft.term == term:
                for lease_id in due:
                    body = rpc_pb2.LeaseRevokeRequest(ID=lease_id).SerializeToString()
                    member.propose_as_leader(Kind.LEASE_REVOKE, body)
                    self.expired += 1

        member.read_index(revoke)

    def _checkpoint(self) -> None:
        """Propose checkpoints; one that gets lost is made up for after the next interval."""
        due = self._lessor.checkpoints_due(self._now())
        if due:
            self._member.propose_as_leader(Kind.LEASE_CHECKPOINT, wire.encode_checkpoints(due))

    def renew(self, lease_id: int, done: Renewed) -> None:
        """Renew a lease, once nothing in the log stands against it.

        Leadership is confirmed and everything committed is applied before the lease is looked at
        (LSE-09, LSE-10).
        """
        lessor = self._lessor

        def fresh(error: EtcdError | None) -> None:
            if error is not None:
                done(error)
            elif not lessor.is_primary:
                done(NO_LEADER)
            elif lessor.is_checkpointed(lease_id):
                self._take_back(lease_id, done)
            else:
                done(lessor.renew(lease_id, self._now()))

        self._member.read_index(fresh)

    def _take_back(self, lease_id: int, done: Renewed) -> None:
        """Replicate that the full TTL counts again; then look once more."""
        mark = self._lessor.checkpoint_mark(lease_id)

        def applied(result: Result) -> None:
            if isinstance(result, EtcdError):
                done(result)
                return
            self._lessor.settle_checkpoints(lease_id, mark)
            self.renew(lease_id, done)

        try:
            self._member.propose(
                Kind.LEASE_CHECKPOINT, wire.encode_checkpoints([(lease_id, 0)]), applied
            )
        except EtcdError as error:
            done(error)
