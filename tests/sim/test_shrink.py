"""A failing seed is made smaller, and what is printed of it repeats it."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from jepsen.sim.cli import main, plans, run_one
from jepsen.sim.plan import Plan
from jepsen.sim.shrink import Failed, shrink
from kvstore.node.member import Member
from kvstore.node.reads import ReadDone

WHOLE = Plan(7, members=5, clients=6, watchers=4, chaos_s=20.0, changes=True)


def fails_with(plan: Plan, faults: set[int], kinds: set[str]) -> Failed | None:
    """A failure that needs some faults, some kinds of them, three members and two clients."""
    small = plan.members < 3 or plan.clients < 2 or plan.chaos_s < 5.0
    if small or faults & plan.skip or kinds & plan.without:
        return None
    return Failed("broken", 5.0, 12)


def test_everything_that_is_not_needed_is_left_out() -> None:
    def fails(plan: Plan) -> Failed | None:
        return fails_with(plan, {3, 8}, {"crash", "partition"})

    failed = fails(WHOLE)
    assert failed is not None
    plan, _ = shrink(WHOLE, failed, fails, lambda: True)
    assert (plan.members, plan.clients, plan.watchers, plan.changes) == (3, 2, 0, False)
    assert plan.chaos_s == pytest.approx(5.1)
    assert plan.skip == set(range(1, 13)) - {3, 8}
    assert plan.without.isdisjoint({"crash", "partition"})
    assert {"pause", "slow_disk"} <= plan.without


def test_shrinking_ends_when_its_time_is_up() -> None:
    runs = iter(range(5))
    failed = Failed("broken", 5.0, 12)
    tried: list[Plan] = []

    def fails(plan: Plan) -> Failed | None:
        tried.append(plan)
        return failed

    shrink(WHOLE, failed, fails, lambda: next(runs, None) is not None)
    assert len(tried) == 5


def test_the_printed_command_repeats_the_plan() -> None:
    plan = replace(WHOLE, without=frozenset({"pause", "heal"}), skip=frozenset({4, 2}))
    words = shlex.split(plan.command())
    assert words[:4] == ["python", "-m", "jepsen", "sim"]
    assert plans(words[4:]) == [plan]
    assert plans(shlex.split(Plan(3).command())[4:]) == [Plan(3)]


def test_leaving_a_fault_out_keeps_the_others() -> None:
    """Else dropping faults one by one would be a search among unrelated runs."""
    plan = Plan(3, members=3, clients=1, watchers=0, chaos_s=10.0, changes=False)
    whole, less = run_one(plan), run_one(replace(plan, skip=frozenset({1})))
    assert whole.outcome.faults == less.outcome.faults > 1
    assert whole.outcome.trace_hash != less.outcome.trace_hash


def test_failing_seeds_are_printed_small_with_their_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_at_once(self: Member, done: ReadDone) -> None:
        done(None)

    monkeypatch.setattr(Member, "read_index", read_at_once)
    code = main(["--seeds=2", "--jobs=1", "--members=3", "--chaos=10", "--shrink=3"])
    printed = capsys.readouterr().out
    assert code == 1
    assert "failed: 0" in printed
    assert "made smaller" in printed
    assert "Repeat (--trace prints all events):\n  python -m jepsen sim --seeds 1" in printed


def test_a_run_on_several_processes_sums_up_all_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--seeds=3", "--jobs=2", "--members=3", "--chaos=3", "--clients=2"])
    printed = capsys.readouterr().out
    assert code == 0
    assert "3 seeds in" in printed
    assert "virtual seconds" in printed
    assert "failed: none" in printed
