"""The simulation as the mutants use it, with one kind of fault in the place of all where asked."""

from __future__ import annotations

import functools

from jepsen.mutants.registry import Patches, Sim
from jepsen.sim import node
from jepsen.sim.faults import KINDS
from jepsen.sim.loop import Violation
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import Simulation
from raft import Config

OFTEN_S = 0.4
"""Mean pause between faults that come all the time."""

__all__ = ["Violation", "run"]


def run(seed: int, how: Sim) -> None:
    """Simulate once. Raises Violation."""
    plan = Plan(
        seed, members=how.members, clients=how.clients, chaos_s=how.chaos_s, changes=how.changes
    )
    simulation = Simulation(plan)
    patches = Patches()
    if not how.pre_vote:
        patches.set(node, "Config", functools.partial(Config, pre_vote=False))
    if how.faults:
        simulation.faults._weights = [int(kind in how.faults) for kind in KINDS]
        simulation.faults._mean_pause_s = OFTEN_S
    try:
        simulation.run()
    finally:
        patches.undo()
