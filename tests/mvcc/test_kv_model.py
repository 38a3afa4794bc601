"""Random operations, compactions and crashes: the member answers as the naive model does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvstore.apply import kv
from kvstore.errors import EtcdError
from kvstore.mvcc import index as index_module
from kvstore.mvcc.hash import crc32c
from kvstore.mvcc.keyvalue import TOMBSTONE_KEY_SIZE, decode_revision_key
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.storage.backend import REVISIONS
from tests.mvcc.kv_member import ALL, KvMember, lmdb_member, memory_member
from tests.mvcc.kv_model import Model, outcome_of

keys = st.sampled_from([b"a", b"b", b"b\0", b"c", b"d", b"\xff"])
ends = st.sampled_from([b"", b"", b"c", b"d", b"z", b"\0", b"a"])
values = st.sampled_from([b"", b"x", b"y", b"z" * 200])
leases = st.sampled_from([0, 0, 0, 1, -2, 9])
backs = st.sampled_from([-1, 0, 1, 1, 2, 3, 4, 6, 9, 14])
"""How far below the current revision to look, −1 is the future."""
bits = st.booleans()


@st.composite
def puts(draw: st.DrawFn) -> rpc_pb2.PutRequest:
    request = rpc_pb2.PutRequest(key=draw(keys), prev_kv=draw(bits))
    request.ignore_value, request.ignore_lease = draw(
        st.sampled_from([(False, False)] * 4 + [(True, False), (False, True), (True, True)])
    )
    if not request.ignore_value:
        request.value = draw(values)
    if not request.ignore_lease:
        request.lease = draw(leases)
    return request


deletes = st.builds(rpc_pb2.DeleteRangeRequest, key=keys, range_end=ends, prev_kv=bits)
no_filters = st.just((0, 0, 0, 0))
filters = no_filters | no_filters | st.tuples(*[st.sampled_from([0, 0, 4, 8, 15])] * 4)


@st.composite
def ranges(draw: st.DrawFn) -> rpc_pb2.RangeRequest:
    """A Range of the latest revision."""
    low_mod, high_mod, low_create, high_create = draw(filters)
    return rpc_pb2.RangeRequest(
        key=draw(keys | st.just(ALL)),
        range_end=draw(ends | st.just(b"\0")),
        limit=draw(st.sampled_from([-1, 0, 0, 1, 2, 3, 99])),
        sort_order=draw(st.integers(0, 2)),
        sort_target=draw(st.integers(0, 4)),
        keys_only=draw(bits),
        count_only=draw(st.sampled_from([False, False, False, True])),
        min_mod_revision=low_mod,
        max_mod_revision=high_mod,
        min_create_revision=low_create,
        max_create_revision=high_create,
    )


@st.composite
def compares(draw: st.DrawFn) -> rpc_pb2.Compare:
    compare = rpc_pb2.Compare(
        key=draw(keys),
        range_end=draw(ends),
        target=draw(st.integers(0, 4)),
        result=draw(st.integers(0, 3)),
    )
    name = draw(st.sampled_from(["version", "create_revision", "mod_revision", "value", "lease"]))
    setattr(compare, name, draw(values) if name == "value" else draw(st.integers(-2, 20)))
    return compare


def txns(depth: int = 2) -> st.SearchStrategy[rpc_pb2.TxnRequest]:
    ops = (
        st.builds(rpc_pb2.RequestOp, request_put=puts())
        | st.builds(rpc_pb2.RequestOp, request_delete_range=deletes)
        | st.builds(rpc_pb2.RequestOp, request_range=ranges())
    )
    if depth:
        ops |= st.builds(rpc_pb2.RequestOp, request_txn=txns(depth - 1))
    return st.builds(
        rpc_pb2.TxnRequest,
        compare=st.lists(compares(), max_size=2),
        success=st.lists(ops, max_size=4),
        failure=st.lists(ops, max_size=3),
    )


class MemberAgainstModel(RuleBasedStateMachine):
    """The rules; the subclasses below choose the backend."""

    def open(self) -> KvMember:
        raise NotImplementedError

    @initialize(
        changes_kept=st.sampled_from([0, 2, index_module.CHANGES_KEPT]),
        past=st.lists(keys, min_size=8, max_size=30),
    )
    def start(self, changes_kept: int, past: list[bytes]) -> None:
        """Begin with some history: a key named again is now written, now deleted.

        `changes_kept` small makes counts of the past walk instead of calculate.
        """
        self._changes_kept = index_module.CHANGES_KEPT
        index_module.CHANGES_KEPT = changes_kept
        self.member = self.open()
        self.compaction_hashes: dict[int, tuple[int, int, int]] = {}
        """What each compaction since the last crash must remember as its hash."""
        self.model = Model(leases=frozenset({1, -2}))
        for lease in self.model.leases:
            self.member.grant(lease)
        for place, key in enumerate(past):
            if place % 3 == 2:
                self.delete(rpc_pb2.DeleteRangeRequest(key=key))
            else:
                self.put(rpc_pb2.PutRequest(key=key, value=b"%d" % place))
        self.commit()

    def teardown(self) -> None:
        self.look_everywhere()
        self.remove_all()
        self.look_everywhere()
        index_module.CHANGES_KEPT = self._changes_kept
        self.member.backend.close()

    def put(self, request: rpc_pb2.PutRequest) -> None:
        fields = {descriptor.name: value for descriptor, value in request.ListFields()}
        assert outcome_of(lambda: self.member.put(**fields)) == outcome_of(self.model.put, request)

    def delete(self, request: rpc_pb2.DeleteRangeRequest) -> None:
        answer = self.member.delete(request.key, request.range_end, request.prev_kv)
        assert answer == self.model.delete(request)

    @rule(requests=st.lists(puts() | puts() | deletes, min_size=1, max_size=6))
    def write(self, requests: list[rpc_pb2.PutRequest | rpc_pb2.DeleteRangeRequest]) -> None:
        for request in requests:
            if isinstance(request, rpc_pb2.PutRequest):
                self.put(request)
            else:
                self.delete(request)

    @rule(request=txns())
    def txn(self, request: rpc_pb2.TxnRequest) -> None:
        try:
            kv.check_txn(request)
        except EtcdError:
            return  # The checks have tests of their own; the model does not know them.
        assert outcome_of(self.member.run, request) == outcome_of(self.model.txn, request)

    @rule(request=ranges(), back=st.none() | backs)
    def ask(self, request: rpc_pb2.RangeRequest, back: int | None) -> None:
        request.revision = 0 if back is None else self.model.revision - back
        self.ask_both(request)

    @rule(request=ranges(), back=backs, more=puts())
    def ask_around_a_put(
        self, request: rpc_pb2.RangeRequest, back: int, more: rpc_pb2.PutRequest
    ) -> None:
        request.revision = self.model.revision - back
        write, read = rpc_pb2.RequestOp(request_put=more), rpc_pb2.RequestOp(request_range=request)
        self.txn(rpc_pb2.TxnRequest(success=[read, write, read]))

    def look_everywhere(self) -> None:
        """Ask for every revision: keys, count, hash and history."""
        for revision in range(max(self.model.compact_revision, 1) - 1, self.model.revision + 2):
            request = rpc_pb2.RangeRequest(key=ALL, range_end=ALL, revision=revision)
            self.ask_both(request)
            request.limit = 2
            self.ask_both(request)
            self.hash_both(revision)
            self.history_both(revision, 3)
        for remembered in self.member.store.compaction_hashes.newest_first():
            self.hash_both(remembered.hash_revision)

    @rule(lease=st.sampled_from([1, -2]))
    @precondition(lambda self: len(self.model.leases) == 2 and self.model.revision > 15)
    def revoke(self, lease: int) -> None:
        assert self.member.revoke(lease) == self.model.revoke(lease)

    @rule(back=backs, limits=st.lists(st.integers(1, 4), max_size=4))
    def compact(self, back: int, limits: list[int]) -> None:
        """Compact, and remove some of it."""
        revision = self.model.revision - back
        previous, hashed = (
            self.model.compact_revision,
            naive_hash(self.model, revision, compacting=True),
        )
        answer = outcome_of(self.member.store.compact, revision)
        assert answer == outcome_of(self.model.compact, revision)
        if revision == self.model.compact_revision != previous:
            self.compaction_hashes[revision] = (hashed, previous, revision)
        for limit in limits:
            self.member.store.compact_step(limit)

    def remove_all(self) -> None:
        self.member.finish_compaction(3)
        scan = self.member.backend.scan(REVISIONS, b"", None)
        stored = [(*decode_revision_key(k), len(k) == TOMBSTONE_KEY_SIZE) for k, _ in scan]
        assert stored == self.model.kept()

    def commit(self) -> None:
        self.member.backend.commit()
        self.committed = self.model.copy()

    def crash(self) -> None:
        self.member.crash()
        self.model = self.committed.copy()
        self.compaction_hashes = {}

    @rule(kind=st.sampled_from(["remove", "commit", "crash", "restart", "look"]))
    def keep_house(self, kind: str) -> None:
        if kind == "remove":
            self.remove_all()
        if kind in ("commit", "restart"):
            self.commit()
        if kind in ("crash", "restart"):
            self.crash()
        if kind == "look":
            self.look_everywhere()

    def ask_both(self, request: rpc_pb2.RangeRequest) -> None:
        assert outcome_of(self.member.ask, request) == outcome_of(self.model.range, request)

    def history_both(self, start: int, count: int) -> None:
        store = self.member.store
        expected = outcome_of(self.model.history, start)
        found = outcome_of(store.events, start, self.model.revision + 1, count)
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
            return
        assert [
            (
                revision,
                [
                    (kind, key, parse(stored), parse(store.value_at(*previous)))
                    for kind, key, stored, *previous in events
                ],
            )
            for revision, events in found
        ] == expected[:count]

    def hash_both(self, revision: int) -> None:
        found = outcome_of(self.member.store.hash_kv, revision)
        if revision and self.member.store.compaction_hashes.get(revision) is not None:
            assert found == self.compaction_hashes[revision]
        elif isinstance(found, str):
            assert found == outcome_of(self.model.range, rpc_pb2.RangeRequest(revision=revision))
        else:
            at = revision if revision > 0 else self.model.revision
            assert found == (naive_hash(self.model, at), self.model.compact_revision, at)

    @invariant()
    def agree(self) -> None:
        member, model = self.member, self.model
        assert member.revision == member.store.newest == model.revision
        assert member.store.compact_revision == model.compact_revision
        self.ask_both(rpc_pb2.RangeRequest(key=ALL, range_end=ALL))
        for lease in model.leases:
            attached = [key for key, kv in model.state(model.revision).items() if kv.lease == lease]
            assert sorted(member.lessor.keys(lease)) == attached
        announced = [revision for revision, _ in member.events]
        assert announced == sorted(set(announced))


def parse(stored: bytes) -> KeyValue:
    return KeyValue.FromString(stored)


def naive_hash(model: Model, at: int, compacting: bool = False) -> int:
    """MNT-22 by the book, with what a finished removal would have left where that matters.

    `compacting`: MNT-23; a compaction keeps a tombstone of its own revision too.
    """
    compact = model.compact_revision
    written = compacting and any(entry.main == at for entry in model.written)
    keep_at = at if model.state(at) or written else compact
    kept = {(kv.key, kv.mod_revision) for kv in model.state(keep_at).values()}
    crc = crc32c(0, b"key")
    for entry in model.written:
        if entry.main > at:
            break
        if entry.main <= compact and (
            entry.key_value is None or (entry.key, entry.main) not in kept
        ):
            continue
        mark = b"t" if entry.key_value is None else b""
        stored = entry.key_value or KeyValue(key=entry.key)
        name = entry.main.to_bytes(8, "big") + b"_" + entry.sub.to_bytes(8, "big") + mark
        crc = crc32c(crc, name + stored.SerializeToString())
    return crc


class InMemory(MemberAgainstModel):
    def open(self) -> KvMember:
        return memory_member()


class InFile(MemberAgainstModel):
    def open(self) -> KvMember:
        self.directory = Path(tempfile.mkdtemp(prefix="kv-model-"))
        return lmdb_member(self.directory)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=CHECKS
)
TestInFile = InFile.TestCase
TestInFile.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=CHECKS
)
