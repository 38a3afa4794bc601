"""Mutants of the services in front of the core, which real processes alone show."""

from __future__ import annotations

import time
from typing import Any

from jepsen.mutants.registry import Chaos, Patches, mutant
from kvstore.errors import RAFT_PROPOSAL_DROPPED
from kvstore.lease.lessor import Lessor
from kvstore.node.request import Kind
from kvstore.rpc.core import Core
from kvstore.rpc.kv import KVService
from kvstore.rpc.lease import LeaseService
from kvstore.storage.lmdb_backend import LmdbBackend

STALE = ("linearizable: not linearizable", "revisions: stale read", "revisions: against real time",
         "append: G-single-realtime", "append: G1c-realtime", "append: G0-realtime",
         "append: G2-realtime")  # fmt: skip
BREAKS = ("isolate-leader", "pause-leader", "partition-halves", "kill")


@mutant("Range is linearizable", "RFT-01, JEP-01", *STALE,
        hunt=Chaos(("register",), BREAKS))  # fmt: skip
def ranges_answered_from_local_state(patch: Patches) -> None:
    @patch.around(KVService, "range")
    def answer(original: Any, self: KVService, call: Any, request: Any) -> Any:
        request.serializable = True
        return original(self, call, request)


@mutant("a read-only transaction is linearizable", "TXN-22", *STALE,
        hunt=Chaos(("append",), BREAKS))  # fmt: skip
def read_only_transactions_answered_from_local_state(patch: Patches) -> None:
    from kvstore.rpc import kv

    patch.set(kv, "is_serializable_txn", lambda request: True)


@mutant("a put is answered when it is committed", "RFT-09", "set: lost write", *STALE,
        hunt=Chaos(("set",), ("kill-leader", "isolate-leader")))  # fmt: skip
def puts_answered_when_received(patch: Patches) -> None:
    @patch.around(Core, "propose")
    def propose(original: Any, self: Core, kind: Kind, body: bytes) -> Any:
        if kind != Kind.PUT:
            return original(self, kind, body)
        self.member.propose(kind, body, lambda result: None)
        future: Any = self.loop.create_future()
        future.set_result(self.header(self.store.revision))
        return future


@mutant("a time-out is no refusal", "RFT-21, JEP-08", "set: failed write is there",
        "linearizable: not linearizable", "revisions: value out of nowhere",
        hunt=Chaos(("set", "register"), ("isolate-leader", "pause-leader")))  # fmt: skip
def leader_change_called_a_refusal(patch: Patches) -> None:
    from kvstore.node.member import Member

    @patch.around(Member, "_leader_changed")
    def changed(original: Any, self: Member) -> None:
        for request_id in list(self._waiters):
            self._fail(request_id, RAFT_PROPOSAL_DROPPED)
        original(self)


@mutant("a deposed leader answers no keep-alive", "LSE-09, scenario 4", "lease: lease revived",
        "lease: lease ended early",
        hunt=Chaos(("lease",), ("pause-leader",), seconds=30.0, fault_s=7.0))  # fmt: skip
def deposed_leader_renews(patch: Patches) -> None:
    @patch.instead(LeaseService, "_local_renew")
    async def renew(self: LeaseService, payload: bytes) -> bytes:
        lessor: Lessor = self._core.lessor
        lease = lessor._leases.get(int(payload))
        return b"%d" % (lease.ttl_s if lease is not None else 0)


@mutant("a lease lasts its TTL after a change of leaders", "LSE-21", "lease: lease ended early",
        hunt=Chaos(("lease",), ("kill-leader", "move-leader")))  # fmt: skip
def leases_end_with_their_leader(patch: Patches) -> None:
    @patch.around(Lessor, "promote")
    def promote(original: Any, self: Lessor, now: float, extend: float) -> None:
        original(self, now - 10.0, 0.0)


@mutant("keys of a lease are deleted in one order everywhere", "LSE-12", "hashes: members differ",
        hunt=Chaos(("lease",), ("kill",)))  # fmt: skip
def lease_keys_deleted_in_hash_order(patch: Patches) -> None:
    @patch.around(Lessor, "revoke")
    def revoke(original: Any, self: Lessor, lease_id: int) -> Any:
        return list(set(original(self, lease_id)))


@mutant("defragmentation keeps what is not committed", "MNT-10, scenario 24",
        "hashes: members differ", "logs: crash in the log", "set: lost write",
        "linearizable: not linearizable", "revisions: stale read",
        hunt=Chaos(("register", "set"), ("defragment",)))  # fmt: skip
def defragmentation_forgets_pending_writes(patch: Patches) -> None:
    from kvstore.storage.backend import WriteBuffer

    @patch.around(LmdbBackend, "switch")
    def switch(original: Any, self: LmdbBackend) -> Any:
        self._buffer = WriteBuffer()
        return original(self)


@mutant("request ids are new after a restart", "GEN-02", "linearizable: not linearizable",
        "revisions: wrong compare", "revisions: stale read", "revisions: against real time",
        "set: lost write", "logs: crash in the log",
        hunt=Chaos(("register", "set"), ("kill", "partition-halves")))  # fmt: skip
def request_ids_begin_again_on_each_member(patch: Patches) -> None:
    from kvstore.server import process

    patch.set(process, "first_request_id", lambda member_id, now: 1)


@mutant("the clock on the wall decides nothing", "scenario 8", "lease: lease ended early",
        hunt=Chaos(("lease",), ("wall-clock",), seconds=30.0, fault_s=5.0))  # fmt: skip
def leases_live_by_the_wall_clock(patch: Patches) -> None:
    for name in ("grant", "promote", "renew", "expired"):

        @patch.around(Lessor, name)
        def on_the_wall(original: Any, self: Lessor, *arguments: Any) -> Any:
            at = {"grant": 2, "renew": 1}.get(original.__name__, 0)
            changed = list(arguments)
            changed[at] = time.time()
            return original(self, *changed)
