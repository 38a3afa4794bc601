"""Mutants of transactions and single writes: atomicity, compares, what is answered."""

from __future__ import annotations

from typing import Any

from jepsen.mutants.registry import Patches, mutant
from kvstore.apply import operations, txn
from kvstore.mvcc.keyvalue import length_delimited
from kvstore.mvcc.store import WriteTxn
from kvstore.pb.rpc_pb2 import Compare

ANSWERS = ("answers agree with the history", "acknowledged writes are there",
           "stale read or write", "a compare tells the truth")  # fmt: skip
BROKEN = ("a member fails", "a member fails")
STATES = ("equal index, equal state", "equal revision, equal events", "dense revisions")


@mutant("prev_kv is what was there before", "PUT-06", *ANSWERS)
def prev_kv_shows_the_new_value(patch: Patches) -> None:
    def put(original: Any, t: WriteTxn, store: Any, lessor: Any, request: Any) -> bytes:
        body = original(t, store, lessor, request)
        return length_delimited(b"\x12", store.get(request.key)) if request.prev_kv else body

    patch.around(operations, "put_in")(put)
    patch.around(txn, "put_in")(put)


@mutant("a deletion answers what it deleted", "DEL-04", *ANSWERS)
def deletion_answers_without_the_last_prev_kv(patch: Patches) -> None:
    @patch.around(operations, "delete_range_in")
    def delete(original: Any, t: WriteTxn, store: Any, lessor: Any, request: Any) -> bytes:
        body = original(t, store, lessor, request)
        return bytes(body[:2]) if body and not request.range_end else bytes(body)


@mutant("compares see the state before the transaction", "TXN-04", *ANSWERS)
def compares_of_missing_keys_pass(patch: Patches) -> None:
    patch.set(txn, "_missing_holds", lambda compare: True)


@mutant("a compare of equal is equal", "TXN-02", *ANSWERS)
def equal_means_not_less(patch: Patches) -> None:
    @patch.around(txn, "_passes")
    def passes(original: Any, actual: Any, wanted: Any, result: int) -> bool:
        if result == Compare.EQUAL:
            return bool(actual >= wanted)
        return bool(original(actual, wanted, result))


@mutant("a failed compare takes the other branch", "TXN-01", *ANSWERS)
def failed_compare_answers_success(patch: Patches) -> None:
    @patch.around(txn, "_txn_response")
    def response(original: Any, succeeded: bool, responses: Any) -> bytes:
        return bytes(original(True, responses))


@mutant("all compares must hold", "TXN-01", *ANSWERS)
def one_compare_is_enough(patch: Patches) -> None:
    @patch.around(txn, "_plan")
    def plan(original: Any, store: Any, request: Any) -> Any:
        found = original(store, request)
        if len(request.compare) < 2:
            return found
        held = any(txn._holds(store, compare) for compare in request.compare)
        if held == found.succeeded:
            return found
        only = type(request)(success=request.success)
        return original(store, only)


@mutant("a transaction sees its own writes", "TXN-08", *ANSWERS)
def transaction_reads_the_state_before_it(patch: Patches) -> None:
    @patch.around(txn, "_range_response")
    def response(original: Any, store: Any, request: Any) -> bytes:
        newest, store.newest = store.newest, store.revision
        try:
            return bytes(original(store, request))
        finally:
            store.newest = newest


@mutant("a transaction that fails leaves no trace", "TXN-14, scenario 21", *ANSWERS, *STATES,
        *BROKEN, "a refused write never shows")  # fmt: skip
def failing_transaction_writes_its_first_half(patch: Patches) -> None:
    @patch.around(txn, "_check")
    def check(original: Any, store: Any, lessor: Any, plan: Any) -> None:
        try:
            original(store, lessor, plan)
        except BaseException:
            written = store.begin()
            for op in plan.ops:
                if op.WhichOneof("request") == "request_put" and not op.request_put.lease:
                    operations.put_in(written, store, lessor, op.request_put)
                else:
                    break
            written.commit()
            raise


@mutant("a nested transaction compares with the state before the outer one", "TXN-07", *ANSWERS,
        *STATES)  # fmt: skip
def nested_compares_see_outer_writes(patch: Patches) -> None:
    @patch.around(txn, "_run")
    def run(original: Any, t: WriteTxn, store: Any, lessor: Any, plan: Any) -> bytes:
        parts = []
        for op in plan.ops:
            inner = op.WhichOneof("request") == "request_txn"
            nested = [txn._plan(store, op.request_txn)] if inner else []
            parts.append(original(t, store, lessor, plan._replace(ops=[op], nested=nested)))
        return b"".join(parts)  # messages that are joined are merged


@mutant("a deletion of many keys is one revision", "DEL-03", *ANSWERS, *STATES)
def range_deletion_takes_several_revisions(patch: Patches) -> None:
    @patch.around(WriteTxn, "delete")
    def delete(original: Any, self: WriteTxn, key: bytes) -> None:
        if self._events:
            self.commit()
            WriteTxn.__init__(self, self._store)
        original(self, key)
