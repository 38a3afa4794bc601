"""Alarms: replicated state that refuses writes, the same on every member."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvstore.apply.applier import Applier
from kvstore.errors import CORRUPT, NO_SPACE, EtcdError
from kvstore.lease.lessor import Lessor
from kvstore.membership.cluster import Cluster
from kvstore.mvcc.store import Store
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import Backend
from kvstore.storage.memory_backend import MemoryBackend

GET, ACTIVATE, DEACTIVATE = 0, 1, 2
NONE, NOSPACE, CORRUPTED = 0, 1, 2
ANY_ID = (1 << 64) - 1


def build(backend: Backend) -> Applier:
    cluster = Cluster(backend, 1)
    return Applier(Store(backend), Lessor(backend, min_ttl=1), cluster)


@pytest.fixture
def applier() -> Applier:
    """A fresh state with key ``k``, lease 7 and two revisions to compact."""
    applier = build(MemoryBackend())
    put(applier)
    put(applier)
    grant(applier, 7)
    return applier


def alarm(applier: Applier, action: int, member: int = 0, kind: int = 0) -> list[tuple[int, int]]:
    """The alarms in the answer to one Alarm entry."""
    request = rpc_pb2.AlarmRequest(action=action, memberID=member, alarm=kind)
    revision, body = applier.alarm(request.SerializeToString())
    assert revision == applier.store.revision
    return [(a.memberID, a.alarm) for a in rpc_pb2.AlarmResponse.FromString(body).alarms]


def put(applier: Applier) -> None:
    applier.put(rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString())


def delete(applier: Applier) -> None:
    applier.delete_range(rpc_pb2.DeleteRangeRequest(key=b"k").SerializeToString())


def grant(applier: Applier, lease: int = 8) -> None:
    applier.lease_grant(rpc_pb2.LeaseGrantRequest(ID=lease, TTL=60).SerializeToString())


def revoke(applier: Applier) -> None:
    applier.lease_revoke(rpc_pb2.LeaseRevokeRequest(ID=7).SerializeToString())


def compact(applier: Applier) -> None:
    applier.compact(rpc_pb2.CompactionRequest(revision=2).SerializeToString())


def op(**fields: object) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(**fields)  # type: ignore[arg-type]


PUT_OP = op(request_put=rpc_pb2.PutRequest(key=b"t"))
DELETE_OP = op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"t"))


def txn(success: list[rpc_pb2.RequestOp], failure: list[rpc_pb2.RequestOp]) -> Apply:
    request = rpc_pb2.TxnRequest(success=success, failure=failure)
    return lambda applier: applier.txn(request.SerializeToString())


Apply = Callable[[Applier], object]

GROWING: dict[str, Apply] = {
    "put": put,
    "lease grant": grant,
    "txn that puts": txn([PUT_OP], []),
    "txn whose other branch puts": txn([DELETE_OP], [PUT_OP]),
    "txn with a nested put": txn(
        [op(request_txn=rpc_pb2.TxnRequest(failure=[PUT_OP]))], [DELETE_OP]
    ),
}
SHRINKING: dict[str, Apply] = {
    "delete": delete,
    "txn without puts": txn([DELETE_OP], [op(request_txn=rpc_pb2.TxnRequest(success=[DELETE_OP]))]),
    "lease revoke": revoke,
    "compaction": compact,
}


def state(applier: Applier) -> tuple[object, ...]:
    store = applier.store
    return store.revision, store.compact_revision, store.hash_kv(0), applier.lessor.ids()


def test_activation_is_idempotent_and_answers_the_alarm(applier: Applier) -> None:
    """MNT-06: any member id, 0 and unknown ones included; type NONE does nothing."""
    assert alarm(applier, ACTIVATE, 0, NOSPACE) == [(0, NOSPACE)]
    assert alarm(applier, ACTIVATE, ANY_ID, NOSPACE) == [(ANY_ID, NOSPACE)]
    assert alarm(applier, ACTIVATE, ANY_ID, NOSPACE) == [(ANY_ID, NOSPACE)]
    assert alarm(applier, ACTIVATE, 5, NONE) == []
    assert applier.alarms.active() == [(0, NOSPACE), (ANY_ID, NOSPACE)]


def test_get_answers_one_type_or_all_whatever_the_member(applier: Applier) -> None:
    """MNT-05: GET filters by type only."""
    alarm(applier, ACTIVATE, 9, CORRUPTED)
    alarm(applier, ACTIVATE, 5, NOSPACE)
    assert alarm(applier, GET, 77, NONE) == [(5, NOSPACE), (9, CORRUPTED)]
    assert alarm(applier, GET, 77, NOSPACE) == [(5, NOSPACE)]
    assert alarm(applier, GET, 77, CORRUPTED) == [(9, CORRUPTED)]
    assert alarm(applier, GET, 77, 99) == []


def test_deactivation_removes_exactly_one_alarm(applier: Applier) -> None:
    """MNT-07: (member, type) is removed and answered; what is not there is an empty answer."""
    for member in (5, 6):
        for kind in (NOSPACE, CORRUPTED):
            alarm(applier, ACTIVATE, member, kind)
    assert alarm(applier, DEACTIVATE, 5, CORRUPTED) == [(5, CORRUPTED)]
    assert alarm(applier, DEACTIVATE, 5, CORRUPTED) == []
    assert alarm(applier, DEACTIVATE, 5, NONE) == []
    assert alarm(applier, DEACTIVATE, 5, 99) == []
    assert applier.alarms.active() == [(5, NOSPACE), (6, NOSPACE), (6, CORRUPTED)]
    assert applier.alarms.corrupt


@pytest.mark.parametrize(
    ("action", "kind"), [(ACTIVATE, 99), (ACTIVATE, -1), (7, NOSPACE), (-1, NOSPACE)]
)
def test_unknown_enums_in_the_log_do_nothing(applier: Applier, action: int, kind: int) -> None:
    """etcd 3.5 panics on a raised alarm of an unknown type; the API refuses these, see e2e."""
    assert alarm(applier, action, 5, kind) == []
    assert not applier.alarms.raised


def test_alarms_survive_a_restart(applier: Applier) -> None:
    """MNT-08: alarms are committed with the entry that raised or disarmed them."""
    backend = applier.store.backend
    assert isinstance(backend, MemoryBackend)
    alarm(applier, ACTIVATE, 5, NOSPACE)
    alarm(applier, ACTIVATE, 6, CORRUPTED)
    backend.commit()
    alarm(applier, DEACTIVATE, 6, CORRUPTED)
    again = build(backend.crash())
    assert again.alarms.active() == [(5, NOSPACE), (6, CORRUPTED)]
    assert again.alarms.nospace and again.alarms.corrupt
    backend.commit()
    assert build(backend.crash()).alarms.active() == [(5, NOSPACE)]


def test_alarms_come_with_a_snapshot(applier: Applier) -> None:
    """MNT-08: an installed backend brings its alarms and takes away those before."""
    alarm(applier, ACTIVATE, 5, CORRUPTED)
    other = build(MemoryBackend())
    alarm(other, ACTIVATE, 6, NOSPACE)
    applier.alarms.restore(other.store.backend)
    assert applier.alarms.active() == [(6, NOSPACE)]
    assert applier.alarms.nospace and not applier.alarms.corrupt


@pytest.mark.parametrize("write", GROWING.values(), ids=GROWING.keys())
def test_nospace_refuses_what_grows(applier: Applier, write: Apply) -> None:
    """MNT-09: whoever raised it, a put in either branch of a transaction is enough."""
    alarm(applier, ACTIVATE, 4711, NOSPACE)
    before = state(applier)
    with pytest.raises(EtcdError) as refused:
        write(applier)
    assert refused.value is NO_SPACE
    assert state(applier) == before
    alarm(applier, DEACTIVATE, 4711, NOSPACE)
    write(applier)


@pytest.mark.parametrize("write", SHRINKING.values(), ids=SHRINKING.keys())
def test_nospace_allows_what_does_not_grow(applier: Applier, write: Apply) -> None:
    """MNT-10, CMP-10: deletes, put-free transactions, revocations, compaction."""
    alarm(applier, ACTIVATE, 4711, NOSPACE)
    write(applier)


@pytest.mark.parametrize("write", (GROWING | SHRINKING).values(), ids=(GROWING | SHRINKING).keys())
def test_corrupt_refuses_every_write(applier: Applier, write: Apply) -> None:
    """MNT-11, CMP-10: nothing that changes or removes data; CORRUPT is named before NOSPACE."""
    alarm(applier, ACTIVATE, 4711, CORRUPTED)
    alarm(applier, ACTIVATE, 4711, NOSPACE)
    before = state(applier)
    with pytest.raises(EtcdError) as refused:
        write(applier)
    assert refused.value is CORRUPT
    assert state(applier) == before
