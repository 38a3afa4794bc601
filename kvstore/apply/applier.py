"""Applies log entries to the state: one entry in, one answer out, the same on every member.

Nothing here may depend on the clock, on chance or on this member's configuration (RFT-11); an
entry's outcome, errors included, follows from the state and the entry alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from kvstore.apply.alarms import Alarms
from kvstore.apply.kv import apply_delete_keys, apply_delete_range, apply_put
from kvstore.apply.quota import txn_cost
from kvstore.apply.txn import apply_txn
from kvstore.lease import wire
from kvstore.lease.lessor import Lessor
from kvstore.membership import changes
from kvstore.membership.cluster import Cluster
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2

Answer = tuple[int, bytes]
"""(header revision, response without its header field)."""


class Applier:
    """The replicated state machine: the key-value store, leases, alarms and the member list.

    ``now`` is set by the member before it applies a batch. Only a leader's lease expiries depend
    on it, and those are not replicated state (LSE-23).
    """

    def __init__(self, store: Store, lessor: Lessor, cluster: Cluster) -> None:
        self.store = store
        self.lessor = lessor
        self.cluster = cluster
        self.alarms = Alarms(store.backend)
        self.now = 0.0
        self.on_members_changed: Callable[[], None] = lambda: None
        self.on_compacted: Callable[[], None] = lambda: None

    def put(self, body: bytes) -> Answer:
        if self.alarms.raised:
            self.alarms.refuse(grows=True)
        return apply_put(self.store, self.lessor, rpc_pb2.PutRequest.FromString(body))

    def delete_range(self, body: bytes) -> Answer:
        if self.alarms.raised:
            self.alarms.refuse(grows=False)
        request = rpc_pb2.DeleteRangeRequest.FromString(body)
        return apply_delete_range(self.store, self.lessor, request)

    def txn(self, body: bytes) -> Answer:
        request = rpc_pb2.TxnRequest.FromString(body)
        if self.alarms.raised:
            self.alarms.refuse(grows=txn_cost(request) > 0)
        return apply_txn(self.store, self.lessor, request)

    def compact(self, body: bytes) -> Answer:
        if self.alarms.raised:
            self.alarms.refuse(grows=False)
        self.store.compact(rpc_pb2.CompactionRequest.FromString(body).revision)
        self.on_compacted()
        return self.store.revision, b""

    def lease_grant(self, body: bytes) -> Answer:
        if self.alarms.raised:
            self.alarms.refuse(grows=True)
        request = rpc_pb2.LeaseGrantRequest.FromString(body)
        ttl = self.lessor.grant(request.ID, request.TTL, self.now)
        response = rpc_pb2.LeaseGrantResponse(ID=request.ID, TTL=ttl)
        return self.store.revision, response.SerializeToString()

    def lease_revoke(self, body: bytes) -> Answer:
        if self.alarms.raised:
            self.alarms.refuse(grows=False)
        keys = self.lessor.revoke(rpc_pb2.LeaseRevokeRequest.FromString(body).ID)
        return apply_delete_keys(self.store, self.lessor, keys), b""

    def alarm(self, body: bytes) -> Answer:
        found = self.alarms.apply(rpc_pb2.AlarmRequest.FromString(body))
        response = rpc_pb2.AlarmResponse(
            alarms=[
                rpc_pb2.AlarmMember(memberID=member_id, alarm=rpc_pb2.AlarmType.Name(alarm))
                for member_id, alarm in found
            ]
        )
        return self.store.revision, response.SerializeToString()

    def lease_checkpoint(self, body: bytes) -> Answer:
        """Leases that were revoked meanwhile are passed over."""
        for lease_id, remaining in wire.decode_checkpoints(body):
            if self.lessor.exists(lease_id):
                self.lessor.checkpoint(lease_id, remaining, self.now)
        return self.store.revision, b""

    def publish(self, body: bytes) -> Answer:
        record = json.loads(body)
        self.cluster.publish(record["id"], record["name"], tuple(record["client_urls"]))
        self.on_members_changed()
        return 0, b""

    # Changes of members (`membership.changes`). What they mean for Raft is the member's business,
    # which also calls on_members_changed once both have taken place.

    def member_add(self, body: bytes) -> Answer:
        info, max_learners = changes.decode_add(body)
        self.cluster.add(info, max_learners)
        members = self.cluster.to_pb()
        response = rpc_pb2.MemberAddResponse(member=info.to_pb(), members=members)
        return 0, response.SerializeToString()

    def member_remove(self, body: bytes) -> Answer:
        self.cluster.remove(changes.decode_id(body))
        response = rpc_pb2.MemberRemoveResponse(members=self.cluster.to_pb())
        return 0, response.SerializeToString()

    def member_promote(self, body: bytes) -> Answer:
        self.cluster.promote(changes.decode_id(body))
        response = rpc_pb2.MemberPromoteResponse(members=self.cluster.to_pb())
        return 0, response.SerializeToString()

    def member_update(self, body: bytes) -> Answer:
        self.cluster.update(*changes.decode_update(body))
        self.on_members_changed()
        response = rpc_pb2.MemberUpdateResponse(members=self.cluster.to_pb())
        return 0, response.SerializeToString()

    def cluster_version(self, body: bytes) -> Answer:
        self.cluster.set_version(body.decode())
        return 0, b""
