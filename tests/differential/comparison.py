"""What counts as equal: answers without what must differ between two clusters.

Cluster and member ids, terms and ids that a server chose are reduced to whether they are there; the
remaining time of a lease may differ a little. All else is left exactly as it came.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from kvstore.pb import rpc_pb2
from tests.differential.generator import LEASES
from tests.differential.sides import Failure

REMAINING_SECONDS = 60
"""By how much the remaining times of one lease may differ: the sides are asked at other times."""


def scrubbed(request: Any, answer: Any) -> Any:
    """A copy of an answer, or of each of a list, comparable."""
    if isinstance(answer, list):
        return [scrubbed(request, one) for one in answer]
    if not isinstance(answer, Message):
        return answer
    copy = type(answer)()
    copy.CopyFrom(answer)
    _scrub_headers(copy)
    if isinstance(copy, rpc_pb2.LeaseGrantResponse) and not request.ID:
        copy.ID = int(copy.ID > 0)
    if isinstance(copy, rpc_pb2.LeaseTimeToLiveResponse):
        copy.keys[:] = sorted(copy.keys)  # in no set order (LSE-16)
    if isinstance(copy, rpc_pb2.LeaseLeasesResponse):
        ids = sorted(lease.ID for lease in copy.leases if lease.ID in LEASES)
        del copy.leases[:]
        copy.leases.extend(rpc_pb2.LeaseStatus(ID=lease_id) for lease_id in ids)
    return copy


def _scrub_headers(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            if isinstance(inner, rpc_pb2.ResponseHeader):
                inner.cluster_id = int(inner.cluster_id > 0)
                inner.member_id = int(inner.member_id > 0)
                inner.raft_term = int(inner.raft_term > 0)
            elif isinstance(inner, rpc_pb2.ResponseOp | rpc_pb2.TxnResponse) or hasattr(
                inner, "header"
            ):
                _scrub_headers(inner)


def align_remaining(reference: Any, ours: Any) -> None:
    """Make remaining times equal that differ by no more than they may."""
    if isinstance(ours, rpc_pb2.LeaseTimeToLiveResponse) and not isinstance(reference, Failure):
        both_live = reference.TTL > 0 and ours.TTL > 0
        if both_live and abs(reference.TTL - ours.TTL) <= REMAINING_SECONDS:
            ours.TTL = reference.TTL
