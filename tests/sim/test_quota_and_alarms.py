"""Quotas and alarms under faults: whoever is full or alarmed, all members stay alike."""

from __future__ import annotations

from dataclasses import replace

from jepsen.sim.plan import Plan
from jepsen.sim.simulator import Simulation
from kvstore.errors import EtcdError
from kvstore.node.member import Result
from kvstore.node.quota import UNLIMITED
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2

STRANGER = 0xDEAD
CHAOS_S = 20.0
RELIEF_S = 0.5
SMALL_QUOTA = 3_000
"""Bytes; a run's keys and history soon take more."""
GET, ACTIVATE, DEACTIVATE = 0, 1, 2


class Filling(Simulation):
    """A run in which one member's backend is small, and somebody raises and disarms alarms.

    Near its end of faults the quota is lifted, and alarms are disarmed until there are none: the
    run's own promises (that writes go on, and everything settles) hold from then on.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(Plan(seed, members=3, chaos_s=CHAOS_S, changes=False))
        self.raised: set[int] = set()
        """Members whose alarm was seen."""
        small = self.nodes[seed % 3]
        self.small_id = small.id
        small.limits = replace(small.limits, quota_bytes=SMALL_QUOTA)
        self.loop.after(RELIEF_S, "alarms", self._meddle)
        self.loop.after(CHAOS_S - 2.0, "quota lifted", self._lift)

    def _lift(self) -> None:
        for node in self.nodes:
            node.limits = replace(node.limits, quota_bytes=0)
            if node.up:
                node.member.quota.limit = UNLIMITED

    def _meddle(self) -> None:
        """Now raise an alarm of a stranger, now disarm one that is there."""
        self.loop.after(RELIEF_S, "alarms", self._meddle)
        up = [node for node in self.nodes if node.up]
        if not up:
            return
        node = self.loop.random.choice(up)
        active = node.member.applier.alarms.active()
        self.raised |= {member_id for member_id, _ in active}
        over = self.loop.now > CHAOS_S - 2.0
        if active and (over or self.loop.random.random() < 0.8):
            member_id, kind = self.loop.random.choice(active)
            request = rpc_pb2.AlarmRequest(action=DEACTIVATE, memberID=member_id, alarm=kind)
        elif not over and self.loop.random.random() < 0.2:
            request = rpc_pb2.AlarmRequest(
                action=ACTIVATE, memberID=STRANGER, alarm=rpc_pb2.NOSPACE
            )
        else:
            return
        try:
            node.member.propose(Kind.ALARM, request.SerializeToString(), _ignore)
        except EtcdError:
            return


def _ignore(result: Result) -> None:
    """An alarm that did not come about is tried again by the next event."""


def test_scenario_14884_members_agree_while_one_is_full_and_alarms_come_and_go() -> None:
    """MNT-08, MNT-16: the state of all members is compared, alarms included, entry by entry."""
    full, strange, puts = 0, 0, 0
    for seed in range(4):
        simulation = Filling(seed)
        outcome = simulation.run()
        assert outcome.counts["full comparison"] > 0
        puts += outcome.counts.get("put", 0)
        for node in simulation.nodes:
            assert node.member.applier.alarms.active() == []
        full += simulation.small_id in simulation.raised
        strange += STRANGER in simulation.raised
    assert full and strange and puts, "else the runs would prove little"
