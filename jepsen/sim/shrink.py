"""Makes a failing run smaller: what can be left out of its plan without the failure going away.

Big pieces first (clients, members, half of the time, kinds of faults), then single faults. The
trade-off: any violation counts as the failure, so a shrunk run may show another one than the run
it came from; both are bugs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from jepsen.sim.faults import KINDS
from jepsen.sim.plan import Plan

Fails = Callable[[Plan], "Failed | None"]
"""Run a plan; None when it keeps all promises."""


class Failed:
    """How a run failed: what the shrinking needs to know of it."""

    def __init__(self, text: str, at_s: float, faults: int) -> None:
        """Args: at_s: virtual time of the failure. faults: how many were drawn until then."""
        self.text = text
        self.at_s = at_s
        self.faults = faults


def shrink(
    plan: Plan, failed: Failed, fails: Fails, more: Callable[[], bool]
) -> tuple[Plan, Failed]:
    """Return the smallest plan found that fails, and how.

    Args:
        more: whether there is time for another run.
    """
    progress = True
    while progress:
        progress = False
        for candidate in _smaller(plan, failed):
            if not more():
                return plan, failed
            outcome = fails(candidate)
            if outcome is not None:
                plan, failed, progress = candidate, outcome, True
                break
    return plan, failed


def _smaller(plan: Plan, failed: Failed) -> Iterator[Plan]:
    """Plans with something left out, what saves most first."""
    end = round(failed.at_s + 0.1, 1)
    if end < plan.chaos_s:
        yield replace(plan, chaos_s=end)
    if plan.changes is not False:
        yield replace(plan, changes=False)
    for watchers in range(plan.watchers if plan.watchers >= 0 else 4):
        yield replace(plan, watchers=watchers)
    for clients in (0, 1, 2, 4):
        if plan.clients < 0 or clients < plan.clients:
            yield replace(plan, clients=clients)
    for members in (1, 3):
        if not plan.members or members < plan.members:
            yield replace(plan, members=members)
    for kind in KINDS:
        if kind not in plan.without:
            yield replace(plan, without=plan.without | {kind})
    left = [number for number in range(1, failed.faults + 1) if number not in plan.skip]
    size = len(left) // 2
    while size:
        for start in range(0, len(left), size):
            yield replace(plan, skip=plan.skip | set(left[start : start + size]))
        size //= 2
