"""Fields at and beyond their limits: unknown enum values, negative and huge numbers, options that
contradict each other, transactions in transactions.

Each gets etcd's answer, and nothing is half done. The same tests run against etcd
(``E2E_PROGRAM=etcd``), but for what ends its process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from kvstore.mvcc.keyvalue import length_delimited
from kvstore.pb import rpc_pb2
from tests.e2e.client import Client, put_op
from tests.e2e.cluster import Cluster, reference_under_test
from tests.e2e.locks import status_of

pb = rpc_pb2
CODE = grpc.StatusCode
MOST, LEAST = 2**63 - 1, -(2**63)
SECONDS = 60.0
ENUM_VALUES = [-1, 99, 2**31 - 1, -(2**31)]


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return cluster.client(1)


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    """The call inside must fail with this code and exactly this text."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert (error.code(), error.details()) == (code, text)


COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


# -- enums -----------------------------------------------------------------------------------------


@pytest.mark.skipif(reference_under_test(), reason="an unknown sort target ends etcd 3.5")
@pytest.mark.parametrize("value", ENUM_VALUES)
@pytest.mark.parametrize("field", ["sort_order", "sort_target"])
def test_unknown_sort_options_are_refused(client: Client, field: str, value: int) -> None:
    """RNG-22: in a range, and in a range in a transaction."""
    request = pb.RangeRequest(key=b"a", range_end=b"b", **{field: value})
    with refused(CODE.INVALID_ARGUMENT, "etcdserver: invalid sort option"):
        client.call("KV/Range", request)
    with refused(CODE.INVALID_ARGUMENT, "etcdserver: invalid sort option"):
        client.txn([], [put_op(b"odd/never", b""), pb.RequestOp(request_range=request)])
    assert client.get(b"odd/never").count == 0


@pytest.mark.parametrize("value", ENUM_VALUES)
def test_an_unknown_compare_result_passes(client: Client, value: int) -> None:
    """TXN-03: etcd's rule, whether the key is there or not."""
    client.put(b"odd/there", b"x")
    for key in (b"odd/there", b"odd/not"):
        compare = pb.Compare(key=key, target=pb.Compare.VERSION, result=value, version=7)
        assert client.txn([compare]).succeeded


@pytest.mark.parametrize("value", ENUM_VALUES)
def test_an_unknown_compare_target_compares_equal(client: Client, value: int) -> None:
    """TXN-03: nothing is compared with nothing."""
    client.put(b"odd/there", b"x")
    for key in (b"odd/there", b"odd/not"):
        outcome = {
            result: client.txn([pb.Compare(key=key, target=value, result=result)]).succeeded
            for result in pb.Compare.CompareResult.values()
        }
        assert outcome == {
            pb.Compare.EQUAL: True,
            pb.Compare.GREATER: False,
            pb.Compare.LESS: False,
            pb.Compare.NOT_EQUAL: False,
        }


@pytest.mark.parametrize("value", ENUM_VALUES)
def test_unknown_watch_filters_filter_nothing(client: Client, value: int) -> None:
    """WCH-26."""
    revision = client.put(b"odd/filter", b"x").header.revision
    create = pb.WatchCreateRequest(
        key=b"odd/filter", start_revision=revision, filters=[value, value]
    )
    call = client._watch(iter([pb.WatchRequest(create_request=create)]), timeout=SECONDS)
    assert next(call).created
    assert next(call).events[0].kv.value == b"x"
    call.cancel()


@pytest.mark.skipif(reference_under_test(), reason="an unknown alarm ends etcd 3.5")
@pytest.mark.parametrize("value", ENUM_VALUES)
def test_unknown_alarms_are_refused(client: Client, value: int) -> None:
    """MNT-08: by the field's name or its number."""
    activate = pb.AlarmRequest.ACTIVATE
    for request in (pb.AlarmRequest(action=value), pb.AlarmRequest(action=activate, alarm=value)):
        call = client.channel.unary_unary("/etcdserverpb.Maintenance/Alarm")
        code, text = status_of(call.future(request.SerializeToString(), timeout=SECONDS))
        assert code in (CODE.INVALID_ARGUMENT, CODE.UNKNOWN)
        assert str(value) in text or "unknown" in text
    assert list(client.call("Maintenance/Alarm", pb.AlarmRequest()).alarms) == []


@pytest.mark.parametrize("value", ENUM_VALUES)
def test_an_unknown_downgrade_action_is_refused(client: Client, value: int) -> None:
    """MNT-31."""
    request = pb.DowngradeRequest(action=value, version="3.5").SerializeToString()
    with refused(CODE.UNKNOWN, "etcdserver: unknown method"):
        client.raw_unary("/etcdserverpb.Maintenance/Downgrade", request)


# -- negative and huge numbers ---------------------------------------------------------------------


def test_revisions_below_zero(client: Client) -> None:
    """RNG-08, TXN-16, CMP-01, WCH-14: the latest for a range, compacted for all else."""
    client.put(b"odd/rev", b"now")
    client.compact(client.put(b"odd/rev", b"now").header.revision)
    for revision in (-1, LEAST):
        assert client.get(b"odd/rev", revision=revision).kvs[0].value == b"now"
        with refused(CODE.OUT_OF_RANGE, COMPACTED):
            client.compact(revision)
        nested = pb.RequestOp(request_range=pb.RangeRequest(key=b"odd/rev", revision=revision))
        with refused(CODE.OUT_OF_RANGE, COMPACTED):
            client.txn([], [nested, put_op(b"odd/never", b"")])
        create = pb.WatchCreateRequest(key=b"odd/rev", start_revision=revision)
        call = client._watch(iter([pb.WatchRequest(create_request=create)]), timeout=SECONDS)
        answer = next(call)
        while not answer.canceled:
            answer = next(call)
        call.cancel()
    assert client.get(b"odd/never").count == 0


def test_revisions_beyond_all(client: Client) -> None:
    """RNG-09, CMP-01, MNT-20, TXN-15: a future that will not come."""
    nested = pb.RequestOp(request_range=pb.RangeRequest(key=b"a", revision=MOST))
    calls: list[Callable[[], Any]] = [
        lambda: client.get(b"a", revision=MOST),
        lambda: client.get(b"a", revision=MOST, serializable=True),
        lambda: client.txn([], [nested]),
        lambda: client.txn([], [put_op(b"odd/never", b""), nested]),
        lambda: client.compact(MOST),
        lambda: client.hash_kv(MOST),
    ]
    if reference_under_test():
        del calls[3]  # members of etcd 3.5 come to differ by it (etcd-io/etcd issue 18667)
    for call in calls:
        with refused(CODE.OUT_OF_RANGE, FUTURE):
            call()
    assert client.get(b"odd/never").count == 0


def test_limits_below_zero_and_beyond_all(client: Client) -> None:
    """RNG-12, RNG-16: no limit; filters that pass everything or nothing."""
    for key in (b"odd/l/1", b"odd/l/2", b"odd/l/3"):
        client.put(key, b"x")
    for limit in (-1, LEAST, MOST, 4):
        answer = client.prefix(b"odd/l/", limit=limit)
        assert (len(answer.kvs), answer.count, answer.more) == (3, 3, False)
    passing: list[dict[str, int]] = [
        {"max_mod_revision": MOST, "max_create_revision": MOST},
        {"min_mod_revision": LEAST, "min_create_revision": -1},
    ]
    for fields in passing:
        assert len(client.prefix(b"odd/l/", **fields).kvs) == 3
    nothing: list[dict[str, int]] = [
        {"min_mod_revision": MOST},
        {"max_create_revision": LEAST},
        {"min_mod_revision": 10, "max_mod_revision": 9},
    ]
    for fields in nothing:
        answer = client.prefix(b"odd/l/", **fields)
        assert (len(answer.kvs), answer.count, answer.more) == (0, 3, False)


def test_leases_at_their_limits(client: Client) -> None:
    """LSE-01..03, LSE-06, LSE-13, LSE-17: any id but 0, a TTL of at least the minimum."""
    for ttl in (0, -1, LEAST, 1):
        granted = client.grant(ttl)
        assert 1 <= granted.TTL <= 10
        client.revoke(granted.ID)
    for ttl in (9_000_000_001, MOST):
        with refused(CODE.OUT_OF_RANGE, "etcdserver: too large lease TTL"):
            client.grant(ttl)
    longest = client.grant(9_000_000_000)
    assert longest.TTL == 9_000_000_000
    client.revoke(longest.ID)
    for lease in (-1, LEAST, MOST):
        with refused(CODE.NOT_FOUND, "etcdserver: requested lease not found"):
            client.put(b"odd/lease", b"", lease=lease)
        with refused(CODE.NOT_FOUND, "etcdserver: requested lease not found"):
            client.revoke(lease)
        assert client.time_to_live(lease).TTL == -1
        assert client.keep_alive_once(lease).TTL == 0
        assert lease == client.grant(60, lease).ID
        client.put(b"odd/lease", b"", lease=lease)
        assert client.keep_alive_once(lease).TTL == 60
        client.revoke(lease)
        assert client.get(b"odd/lease").count == 0


def test_compares_with_numbers_beyond_all(client: Client) -> None:
    """TXN-02: signed, of 64 bits."""
    client.put(b"odd/compare", b"x")
    less, greater = pb.Compare.LESS, pb.Compare.GREATER
    for target, name in (
        (pb.Compare.VERSION, "version"),
        (pb.Compare.CREATE, "create_revision"),
        (pb.Compare.MOD, "mod_revision"),
        (pb.Compare.LEASE, "lease"),
    ):
        for result, number in ((less, MOST), (greater, LEAST), (greater, -1)):
            compare = pb.Compare(key=b"odd/compare", target=target, result=result, **{name: number})
            assert client.txn([compare]).succeeded


def test_watches_with_numbers_beyond_all(client: Client) -> None:
    """WCH-03, WCH-13, WCH-43: ids of any size, revisions that are awaited, unknown ids."""
    requests = [
        pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"odd/watch", **fields))
        for fields in ({"watch_id": MOST}, {"watch_id": 5, "start_revision": MOST}, {})
    ]
    for unknown in (LEAST, -1, 404):
        cancel = pb.WatchCancelRequest(watch_id=unknown)
        requests.append(pb.WatchRequest(cancel_request=cancel))
    call = client._watch(iter(requests), timeout=SECONDS)
    created = [next(call) for _ in range(3)]
    assert [answer.watch_id for answer in created] == [MOST, 5, 0]
    assert all(answer.created and not answer.canceled for answer in created)
    client.put(b"odd/watch", b"x")
    assert {next(call).watch_id for _ in range(2)} == {MOST, 0}
    call.cancel()


# -- contradictions --------------------------------------------------------------------------------


def test_options_that_contradict_each_other(client: Client) -> None:
    """RNG-05, RNG-15, PUT-07, PUT-08, DEL-02: which one wins, and which are refused."""
    client.put(b"odd/c", b"kept")
    counted = client.get(
        b"odd/c", count_only=True, keys_only=True, limit=-5, max_mod_revision=1, sort_order=2
    )
    assert (counted.count, len(counted.kvs), counted.more) == (1, 0, False)
    backwards = client.get(b"odd/z", range_end=b"odd/a")
    assert (backwards.count, len(backwards.kvs)) == (0, 0)
    assert client.delete(b"odd/z", range_end=b"odd/a").deleted == 0
    with refused(CODE.INVALID_ARGUMENT, "etcdserver: value is provided"):
        client.put(b"odd/c", b"new", ignore_value=True)
    with refused(CODE.INVALID_ARGUMENT, "etcdserver: lease is provided"):
        client.put(b"odd/c", b"new", ignore_lease=True, lease=1)
    both = client.put(b"odd/c", ignore_value=True, ignore_lease=True, prev_kv=True)
    assert both.prev_kv.value == b"kept"
    assert client.get(b"odd/c").kvs[0].value == b"kept"
    nobody = pb.Compare(key=b"odd/z", range_end=b"odd/a", target=pb.Compare.VERSION, version=0)
    assert client.txn([nobody]).succeeded


def test_a_watch_that_can_see_nothing(client: Client) -> None:
    """WCH-05, WCH-09, WCH-26: an empty range is refused, filters for everything are not."""
    empty = pb.WatchCreateRequest(key=b"b", range_end=b"a", watch_id=9)
    deaf = pb.WatchCreateRequest(key=b"odd/deaf", filters=[0, 1, 0], fragment=True, prev_kv=True)
    twice = pb.WatchCreateRequest(key=b"odd/deaf", watch_id=3)
    requests = [pb.WatchRequest(create_request=create) for create in (empty, deaf, twice, twice)]
    call = client._watch(iter(requests), timeout=SECONDS)
    answers = [next(call) for _ in range(4)]
    assert [answer.canceled for answer in answers] == [True, False, False, True]
    assert (answers[0].created, answers[0].watch_id) == (True, -1)
    assert (answers[3].created, answers[3].watch_id) == (True, -1)
    client.put(b"odd/deaf", b"x")
    assert next(call).watch_id == 3
    call.cancel()


# -- transactions in transactions ------------------------------------------------------------------


def nested(depth: int, op: Any) -> bytes:
    """A serialized transaction with `depth` others around its only operation."""
    body = bytes(op.SerializeToString())
    for _ in range(depth):
        body = length_delimited(b"\x22", length_delimited(b"\x12", body))
    return length_delimited(b"\x12", body)


def innermost(answer: Any) -> Any:
    while answer.responses[0].HasField("response_txn"):
        answer = answer.responses[0].response_txn
    return answer


DEEPEST = 48
"""As deep as protobuf parses the answer in Python; in etcd --max-txn-ops is the only bound."""


def test_transactions_nest_deep_and_see_their_own_writes(client: Client) -> None:
    """TXN-09, TXN-11, TXN-18: all in one revision."""
    before = client.get(b"odd/deep").header.revision
    body = nested(DEEPEST, put_op(b"odd/deep", b"x"))
    answer = pb.TxnResponse.FromString(client.raw_unary("/etcdserverpb.KV/Txn", body))
    assert innermost(answer).responses[0].HasField("response_put")
    assert answer.header.revision == before + 1
    assert client.get(b"odd/deep").kvs[0].mod_revision == before + 1


@pytest.mark.parametrize("depth", [64, 128, 129, 1000, 30_000])
def test_transactions_that_nest_too_deep_change_nothing(
    cluster: Cluster, client: Client, depth: int
) -> None:
    """TXN-11: refused before anything is proposed, and no stack overflows, however deep."""
    body = nested(depth, put_op(b"odd/deeper", b"x"))
    for i in range(3):
        call = cluster.client(i).channel.unary_unary("/etcdserverpb.KV/Txn")
        future = call.future(body, timeout=SECONDS)
        if reference_under_test() and depth < 128:
            assert future.exception() is None
            client.delete(b"odd/deeper")
            continue
        code, text = status_of(future)
        refusals = (
            (CODE.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"),
            (CODE.INTERNAL, text if text.startswith("grpc: error unmarshalling request") else ""),
            (CODE.RESOURCE_EXHAUSTED, text),
        )
        assert (code, text) in refusals
    assert client.get(b"odd/deeper").count == 0


def test_keys_in_nested_transactions_count_as_duplicates(client: Client) -> None:
    """TXN-10: however deep they are; and a nested one that fails leaves nothing behind."""
    inner = pb.TxnRequest(success=[put_op(b"odd/dup", b"1")])
    for _ in range(10):
        inner = pb.TxnRequest(success=[pb.RequestOp(request_txn=inner)])
    twice = [put_op(b"odd/dup", b"2"), pb.RequestOp(request_txn=inner)]
    with refused(CODE.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"):
        client.txn([], twice)
    lost = pb.RequestOp(request_put=pb.PutRequest(key=b"odd/lost", lease=404))
    failing = pb.TxnRequest(success=[put_op(b"odd/first", b""), lost])
    with refused(CODE.NOT_FOUND, "etcdserver: requested lease not found"):
        client.txn([], [put_op(b"odd/outer", b""), pb.RequestOp(request_txn=failing)])
    keys = (b"odd/dup", b"odd/outer", b"odd/first", b"odd/lost")
    assert [client.get(key).count for key in keys] == [0, 0, 0, 0]


def test_operations_without_a_request(client: Client) -> None:
    """TXN-13: in either branch, and nested."""
    empty = pb.RequestOp()
    within = pb.RequestOp(request_txn=pb.TxnRequest(failure=[empty]))
    for branches in (([empty], []), ([], [empty]), ([within], [])):
        with refused(CODE.INVALID_ARGUMENT, "etcdserver: key not found"):
            client.txn([], *branches)
