"""The lessor against a model that keeps everything in plain dicts and looks at every lease."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.lease.lessor import RENEW_EXPIRED, RENEW_UNKNOWN, REVOKE_RETRY_S, Lessor
from kvstore.storage.memory_backend import MemoryBackend

IDS = st.sampled_from([-2, -1, 1, 2, 3])
KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
EXTEND_S = 1.0
MIN_TTL_S = 2


@dataclass
class ModelLease:
    ttl: int
    expiry: float = math.inf
    handed_out: float = -math.inf


class LessorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backend = MemoryBackend()
        self.lessor = Lessor(self.backend, min_ttl=MIN_TTL_S)
        self.now = 0.0
        self.leads = False
        self.leases: dict[int, ModelLease] = {}
        self.lease_of: dict[bytes, int] = {}

    def keys_of(self, lease_id: int) -> list[bytes]:
        return sorted(key for key, owner in self.lease_of.items() if owner == lease_id)

    @rule(lease_id=IDS, ttl=st.integers(-1, 12))
    def grant(self, lease_id: int, ttl: int) -> None:
        if lease_id in self.leases:
            with pytest.raises(EtcdError, match=errors.LEASE_EXIST.message):
                self.lessor.grant(lease_id, ttl, self.now)
            return
        effective = self.lessor.grant(lease_id, ttl, self.now)
        assert effective == max(ttl, MIN_TTL_S)
        expiry = self.now + effective if self.leads else math.inf
        self.leases[lease_id] = ModelLease(effective, expiry)

    @rule(lease_id=IDS)
    def revoke(self, lease_id: int) -> None:
        if lease_id not in self.leases:
            with pytest.raises(EtcdError, match=errors.LEASE_NOT_FOUND.message):
                self.lessor.revoke(lease_id)
            return
        assert self.lessor.revoke(lease_id) == self.keys_of(lease_id)
        del self.leases[lease_id]
        self.lease_of = {k: owner for k, owner in self.lease_of.items() if owner != lease_id}

    @rule(lease_id=IDS, key=KEYS)
    def attach(self, lease_id: int, key: bytes) -> None:
        if lease_id not in self.leases:
            with pytest.raises(EtcdError, match=errors.LEASE_NOT_FOUND.message):
                self.lessor.attach(lease_id, key)
            return
        self.lessor.attach(lease_id, key)
        self.lease_of[key] = lease_id

    @rule(key=KEYS)
    def detach(self, key: bytes) -> None:
        self.lessor.detach(key)
        self.lease_of.pop(key, None)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(lease_id=IDS)
    def renew(self, lease_id: int) -> None:
        if not self.leads:
            return
        result = self.lessor.renew(lease_id, self.now)
        lease = self.leases.get(lease_id)
        if lease is None:
            assert result == RENEW_UNKNOWN
        elif lease.expiry <= self.now:
            assert result == RENEW_EXPIRED
        else:
            assert result == lease.ttl
            lease.expiry = max(lease.expiry, self.now + lease.ttl)

    @rule(limit=st.sampled_from([1, 2, 500]))
    def expire(self, limit: int) -> None:
        found = self.lessor.expired(self.now, limit)
        due = [
            lease_id
            for lease_id, lease in self.leases.items()
            if lease.expiry <= self.now and self.now - lease.handed_out >= REVOKE_RETRY_S
        ]
        assert len(found) == min(limit, len(due))
        assert set(found) <= set(due)
        for lease_id in found:
            self.leases[lease_id].handed_out = self.now

    @rule()
    def promote(self) -> None:
        for lease in self.leases.values():
            expiry = self.now + lease.ttl + EXTEND_S
            lease.expiry = max(expiry, lease.expiry) if self.leads else expiry
        self.leads = True
        self.lessor.promote(self.now, EXTEND_S)

    @rule()
    def demote(self) -> None:
        self.stop_leading()
        self.lessor.demote()

    @rule()
    def restart(self) -> None:
        self.stop_leading()
        self.lessor = Lessor(self.backend, min_ttl=MIN_TTL_S)
        assert self.lessor.restore(self.lease_of.items()) == []

    def stop_leading(self) -> None:
        self.leads = False
        for lease in self.leases.values():
            lease.expiry, lease.handed_out = math.inf, -math.inf

    @invariant()
    def same_leases_keys_and_order(self) -> None:
        lessor, leases = self.lessor, self.leases
        assert lessor.is_primary == self.leads
        assert lessor.ids() == sorted(leases, key=lambda i: (leases[i].expiry, i))
        for lease_id, lease in leases.items():
            assert lessor.ttl(lease_id) == lease.ttl
            assert sorted(lessor.keys(lease_id)) == self.keys_of(lease_id)
            if self.leads:
                assert lessor.remaining(lease_id, self.now) == int(lease.expiry - self.now)
        for key in (b"a", b"b", b"c", b"d"):
            assert lessor.lease_of(key) == self.lease_of.get(key, 0)


LessorMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLessorAgainstModel = LessorMachine.TestCase
