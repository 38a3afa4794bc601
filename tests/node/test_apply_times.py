"""How long applies take is measured with the clock that was injected, and told when it is long."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from kvstore.node.apply_times import OPERATIONS, operation
from kvstore.node.member import Limits
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.storage.memory_backend import MemoryBackend
from tests.node.single import Single

WARNING_S = 0.1


def ticking(step: float) -> Callable[[], float]:
    """A clock that goes on by `step` seconds each time somebody looks."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += step
        return now

    return clock


def single(step: float) -> Single:
    return Single(MemoryBackend(), Limits(warning_apply_s=WARNING_S), clock=ticking(step))


def test_applies_are_counted_by_kind_and_outcome() -> None:
    member = single(0.001)
    member.put(b"k", b"v")
    member.propose(Kind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=1).SerializeToString())
    times = member.member.apply_times
    assert (times.ok[Kind.PUT].count, times.failed[Kind.PUT].count) == (1, 0)
    assert times.ok[Kind.PUT].total == pytest.approx(0.001)
    assert (times.ok[Kind.LEASE_REVOKE].count, times.failed[Kind.LEASE_REVOKE].count) == (0, 1)
    assert times.slow_count == 0


def test_compacting_what_is_compacted_is_no_failure() -> None:
    member = single(0.001)
    member.put(b"k", b"v")
    for _ in range(2):
        member.propose(Kind.COMPACT, rpc_pb2.CompactionRequest(revision=2).SerializeToString())
    times = member.member.apply_times
    assert (times.ok[Kind.COMPACT].count, times.failed[Kind.COMPACT].count) == (2, 0)


def test_an_apply_that_takes_too_long_is_logged_with_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    member = single(0.25)
    with caplog.at_level(logging.WARNING):
        member.put(b"slow key", b"secret")
    (record,) = caplog.records
    assert record.getMessage() == "apply request took too long"
    assert vars(record)["took"] == "250.000ms"
    assert vars(record)["expected-duration"] == "100ms"
    assert vars(record)["request"] == 'Put:<key:"slow key" value_size:6 >'
    assert member.member.apply_times.slow_count == 1


def test_a_slow_apply_that_fails_is_logged_with_its_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    member = single(0.25)
    with caplog.at_level(logging.WARNING):
        member.propose(Kind.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=1).SerializeToString())
    assert "lease not found" in vars(caplog.records[0])["error"]


def test_every_kind_of_request_has_a_name() -> None:
    assert set(OPERATIONS) == set(Kind)
    assert {operation(kind) for kind in Kind} == set(OPERATIONS.values())
