"""The simulation as the mutants use it: with one kind of fault in the place of all, or with an
adversary that knows what it wants."""

from __future__ import annotations

from jepsen.mutants import adversaries
from jepsen.mutants.registry import Sim
from jepsen.mutants.stage import Stage
from jepsen.sim.faults import KINDS
from jepsen.sim.loop import Violation
from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import Outcome, Simulation
from kvstore.storage.wal import Batch

__all__ = ["Violation", "simulate"]


def simulate(seed: int, how: Sim) -> Outcome:
    """Simulate once. Raises Violation."""
    plan = Plan(
        seed,
        members=how.members,
        clients=how.clients,
        transactors=how.transactors,
        watchers=how.watchers,
        chaos_s=how.chaos_s,
        changes=how.changes,
        pre_vote=how.pre_vote,
        files=how.files or None,
    )
    simulation = _Aimed(plan, how.adversary) if how.adversary else Simulation(plan)
    if how.faults:
        simulation.faults._weights = [int(kind in how.faults) for kind in KINDS]
        simulation.faults._mean_pause_s = how.every_s
    if how.crash_at_votes:
        _crash_at_votes(simulation, plan)
    return simulation.run()


class _Aimed(Simulation):
    """A run whose faults are those of an adversary."""

    def __init__(self, plan: Plan, adversary: str) -> None:
        super().__init__(plan)
        self._adversary = getattr(adversaries, adversary)

    def _chaos(self) -> None:
        Stage(self, self.plan).play(self._adversary, self.plan.chaos_s)


def _crash_at_votes(simulation: Simulation, plan: Plan) -> None:
    """Crash a member around its vote, and start it again while its term is still undecided."""
    random, loop, checks = plan.stream("votes"), simulation.loop, simulation.checks
    submitted = checks.submitted

    def submit(member: Node, batch: Batch) -> None:
        submitted(member, batch)
        if batch.hard_state is None or not batch.hard_state.vote or random.random() < 0.5:
            return
        life = member.process.life

        def crash() -> None:
            if member.up and member.process.life == life and loop.now < plan.chaos_s:
                member.crash()
                loop.after(random.uniform(0.0, 0.05), f"{member.name} starts", start)

        def start() -> None:
            if not member.up and not member.gone:
                member.start()

        loop.after(random.expovariate(1 / 0.01), f"{member.name} crashes at a vote", crash)

    checks.submitted = submit  # type: ignore[method-assign, assignment]
