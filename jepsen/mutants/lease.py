"""Mutants of leases: when they end, what ends with them, and who decides it."""

from __future__ import annotations

from typing import Any

from jepsen.mutants.registry import Patches, Sim, aimed, mutant
from kvstore.apply.applier import Applier
from kvstore.errors import NOT_PRIMARY_LESSOR
from kvstore.lease import lessor as lessor_module
from kvstore.lease import wire
from kvstore.lease.lessor import Lessor
from kvstore.mvcc.store import Store
from kvstore.node.lease_keeper import LeaseKeeper
from kvstore.node.member import Member
from kvstore.node.request import HEADER, Kind
from kvstore.pb import rpc_pb2
from raft import ProposalDropped

EARLY = ("a lease lasts its time",)
STATES = ("equal index, equal state", "equal revision, equal events", "dense revisions")
KEYS = ("keys go with their lease", "no key of an unknown lease", *STATES)
BUSY = Sim(faults=("slow_disk", "isolate_leader", "pause", "transfer"), clients=8, transactors=0)
HANDED_OVER = Sim(
    faults=("transfer", "pause", "hold", "one_way"),
    every_s=1.5,
    clients=6,
    transactors=0,
    watchers=0,
)
"""Leaders that are replaced by others, now and then, and do not know it."""
BROKEN = ("a member fails",)


@mutant("an expired lease is never revived", "LSE-11, scenario 5", *EARLY, hunt=BUSY)
def expired_lease_revived(patch: Patches) -> None:
    def renew(self: Lessor, lease_id: int, now: float) -> int:
        lease = self._leases.get(lease_id)
        if not self._primary:
            raise NOT_PRIMARY_LESSOR
        if lease is None:
            return 0
        lease.expiry = max(lease.expiry, now + lease.ttl_s)
        return lease.ttl_s

    patch.set(Lessor, "renew", renew)


@mutant("a lease lasts its TTL", "LSE-20", *EARLY)
def leases_expire_early(patch: Patches) -> None:
    @patch.around(Lessor, "expired")
    def expired(original: Any, self: Lessor, now: float, limit: int = 500) -> Any:
        return original(self, now + 1.0, limit)


@mutant("a renewal restarts the TTL", "LSE-05", *EARLY)
def renewals_forgotten(patch: Patches) -> None:
    @patch.around(Lessor, "renew")
    def renew(original: Any, self: Lessor, lease_id: int, now: float) -> int:
        lease = self._leases.get(lease_id)
        expiry = lease.expiry if lease is not None else 0.0
        ttl = int(original(self, lease_id, now))
        if ttl > 0 and lease is not None:
            lease.expiry = expiry
        return ttl


@mutant("a new leader gives leases their full TTL", "LSE-21, scenario 6", *EARLY)
def promotion_gives_half_the_ttl(patch: Patches) -> None:
    @patch.around(Lessor, "promote")
    def promote(original: Any, self: Lessor, now: float, extend: float) -> None:
        original(self, now, 0.0)
        for lease in self._leases.values():
            lease.expiry = lease.due = now + lease.ttl_s / 2
        self._heap = sorted((lease.due, lease_id) for lease_id, lease in self._leases.items())


@mutant("a deposed leader forgets expiries", "LSE-23, scenario 3", *EARLY, hunt=HANDED_OVER)
def deposed_leader_keeps_its_expiries(patch: Patches) -> None:
    patch.set(Lessor, "demote", lambda self: None)


@mutant("followers expire nothing", "LSE-23, scenario 3", *EARLY)
def followers_expire_leases(patch: Patches) -> None:
    @patch.around(Member, "_term_began")
    def began(original: Any, self: Member, term: int) -> None:
        if not self.applier.lessor.is_primary:
            self.applier.lessor.promote(self.now, 0.0)

    patch.set(Lessor, "demote", lambda self: None)

    @patch.instead(Member, "propose_as_leader")
    def propose(self: Member, kind: Any, body: bytes) -> None:
        try:
            self.raft.propose([HEADER.pack(kind, self._take_id()) + body])
        except ProposalDropped:
            return
        self.wake()


@mutant(
    "a deposed leader's revocations are not carried out",
    "LSE-09, scenario 3",
    *EARLY,
    hunt=aimed("expiry_behind_a_pause"),
)
def revocations_forwarded_after_deposition(patch: Patches) -> None:
    """Decided without a confirmed leadership, and proposed whoever leads by then."""

    @patch.instead(LeaseKeeper, "_expire")
    def expire(self: LeaseKeeper) -> None:
        member = self._member
        for lease_id in self._lessor.expired(member.now):
            body = rpc_pb2.LeaseRevokeRequest(ID=lease_id).SerializeToString()
            member.propose(Kind.LEASE_REVOKE, body, lambda result: None)


@mutant(
    "a checkpoint is taken back before a renewal", "LSE-24, scenario 6", *EARLY, hunt=HANDED_OVER
)
def renewal_leaves_the_checkpoint(patch: Patches) -> None:
    patch.set(Lessor, "is_checkpointed", lambda self, lease_id: False)


@mutant("all keys of a lease go with it", "LSE-12", *KEYS, "liveness")
def revocation_leaves_a_key(patch: Patches) -> None:
    @patch.around(Lessor, "revoke")
    def revoke(original: Any, self: Lessor, lease_id: int) -> Any:
        return original(self, lease_id)[1:]


@mutant("all members delete the keys of a lease", "LSE-12", *KEYS)
def followers_leave_a_key(patch: Patches) -> None:
    @patch.around(Lessor, "revoke")
    def revoke(original: Any, self: Lessor, lease_id: int) -> Any:
        keys = original(self, lease_id)
        return keys if self.is_primary else keys[1:]


@mutant("attachments survive a restart", "LSE-23", *KEYS)
def attachments_lost_at_a_restart(patch: Patches) -> None:
    patch.set(Store, "take_attachments", lambda self: [])


@mutant("a put without a lease takes the key off its lease", "LSE-14", *KEYS, *BROKEN,
        "answers agree with the history")  # fmt: skip
def put_leaves_the_key_on_its_lease(patch: Patches) -> None:
    @patch.instead(Lessor, "detach")
    def detach(self: Lessor, key: bytes) -> None:
        return None

    @patch.around(Lessor, "attach")
    def attach(original: Any, self: Lessor, lease_id: int, key: bytes) -> None:
        other = self._lease_of.pop(key, 0)
        if other in self._leases:
            self._leases[other].keys.discard(key)
        original(self, lease_id, key)


@mutant("a lost revocation is proposed again", "LSE-20", "liveness",
        hunt=aimed("expiry_in_a_vain_transfer"))  # fmt: skip
def lost_revocations_not_repeated(patch: Patches) -> None:
    patch.set(lessor_module, "REVOKE_RETRY_S", 1e9)


@mutant("leases survive a restart", "LSE-23", *STATES, "no key of an unknown lease")
def leases_of_a_restart_have_no_ttl(patch: Patches) -> None:
    @patch.around(wire, "decode_lease")
    def decode(original: Any, key: bytes, value: bytes) -> Any:
        lease_id, _, remaining = original(key, value)
        return lease_id, 2, remaining


@mutant("a granted lease is there on all members", "LSE-01, scenario 7", *STATES, *BROKEN)
def followers_grant_another_ttl(patch: Patches) -> None:
    @patch.around(Lessor, "grant")
    def grant(original: Any, self: Lessor, lease_id: int, ttl: int, now: float) -> int:
        return int(original(self, lease_id, ttl if self.is_primary else ttl + 1, now))


@mutant("a write with an unknown lease is refused", "PUT-05", "no key of an unknown lease", *BROKEN,
        *STATES, "keys go with their lease")  # fmt: skip
def unknown_lease_accepted(patch: Patches) -> None:
    from kvstore.apply import operations

    patch.set(operations, "check_put_state", lambda store, lessor, request: None)

    @patch.around(Lessor, "attach")
    def attach(original: Any, self: Lessor, lease_id: int, key: bytes) -> None:
        if self.exists(lease_id):
            original(self, lease_id, key)


@mutant("a snapshot replaces the leases", "LSE-23", *STATES, *BROKEN)
def leases_of_before_a_snapshot_stay(patch: Patches) -> None:
    @patch.around(Lessor, "restore")
    def restore(original: Any, self: Lessor, attachments: Any) -> Any:
        old = dict(self._leases)
        found = original(self, attachments)
        for lease_id, lease in old.items():
            self._leases.setdefault(lease_id, lease)
        return found


@mutant("a revocation is one", "LSE-13", *STATES, *BROKEN, "liveness", *EARLY)
def second_revocation_deletes_again(patch: Patches) -> None:
    """The lease stays until it is revoked twice."""

    @patch.around(Applier, "lease_revoke")
    def revoke(original: Any, self: Applier, body: bytes) -> Any:
        if self.store.revision % 3 == 0:
            return self.store.revision, b""
        return original(self, body)
