"""``python -m jepsen sim`` (``make sim``): run many seeds on all cores and sum up what happened."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice

from jepsen.options import above_zero, whole
from jepsen.sim.faults import KINDS
from jepsen.sim.loop import Violation
from jepsen.sim.plan import CHAOS_S, Plan
from jepsen.sim.shrink import Failed, shrink
from jepsen.sim.simulator import Outcome, Simulation

SHOWN_FAILURES = 3
"""Failing seeds whose text is printed in full and which are shrunk."""
SHRINK_S = 60.0
"""Real seconds for making one failing run smaller."""
BAR_WIDTH = 30
GC_OBJECTS = 2_000_000
"""New objects after which a run looks for cycles all the same: some hundred megabytes."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A plan that was run; ``failure`` is empty when it kept all promises."""

    plan: Plan
    outcome: Outcome
    failure: str
    seconds: float
    """Time on the processor."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m jepsen sim",
        description="Run simulated clusters under faults, each from its seed, and check all"
        " promises. Exit code: 0 all kept, 1 not.",
    )
    made.add_argument("--seeds", type=whole(1), default=100, help="how many (default 100)")
    made.add_argument("--start", type=whole(0), default=0, help="the first one (default 0)")
    made.add_argument(
        "--jobs", type=whole(1), default=os.cpu_count() or 1, help="processes (default: the cores)"
    )
    made.add_argument(
        "--members", type=whole(0, 7), default=0, help="1 to 7; 0: drawn from the seed"
    )
    made.add_argument("--clients", type=whole(-1), default=-1, help="how many; -1: drawn")
    made.add_argument(
        "--transactors",
        type=whole(-1, 2),
        default=-1,
        help="0 to 2 clients of many keys; -1: drawn",
    )
    made.add_argument("--watchers", type=whole(-1, 4), default=-1, help="0 to 4; -1: 4")
    made.add_argument("--chaos", type=above_zero, default=CHAOS_S, help="virtual seconds of faults")
    made.add_argument(
        "--changes",
        action=argparse.BooleanOptionalAction,
        help="whether members come and go (default: drawn)",
    )
    made.add_argument(
        "--pre-vote",
        action=argparse.BooleanOptionalAction,
        help="whether candidates ask first (default: drawn)",
    )
    made.add_argument("--without", type=_kinds, default=frozenset(), help=", ".join(KINDS))
    made.add_argument("--skip", type=_numbers, default=frozenset(), help="faults, by number")
    made.add_argument(
        "--files",
        action=argparse.BooleanOptionalAction,
        help="logs and LMDB in real files (default: with every fourth seed)",
    )
    made.add_argument("--trace", action="store_true", help="print every event; implies one job")
    made.add_argument("--hash", action="store_true", help="print the trace's digests alone")
    made.add_argument(
        "--shrink", type=float, default=SHRINK_S, help="seconds for making a failing run smaller"
    )
    return made


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(filter(None, text.split(",")))
    if unknown := sorted(kinds - {*KINDS, "heal"}):
        raise argparse.ArgumentTypeError(f"no kind of fault: {', '.join(unknown)}")
    return kinds


def _numbers(text: str) -> frozenset[int]:
    return frozenset(map(int, filter(None, text.split(","))))


def plans(arguments: Sequence[str]) -> list[Plan]:
    """Return what a command line would run."""
    return _plans(parser().parse_args(arguments))


def _plans(options: argparse.Namespace) -> list[Plan]:
    first = Plan(
        options.start,
        members=options.members,
        clients=options.clients,
        transactors=options.transactors,
        watchers=options.watchers,
        chaos_s=options.chaos,
        changes=options.changes,
        pre_vote=options.pre_vote,
        without=options.without,
        skip=options.skip,
        files=options.files,
    )
    return [replace(first, seed=options.start + number) for number in range(options.seeds)]


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(arguments)
    chosen = _plans(options)
    with quiet():
        if options.trace or options.hash:
            return _show(chosen, trace=options.trace)
        return _run(chosen, options)


def _run(chosen: Sequence[Plan], options: argparse.Namespace) -> int:
    started = time.monotonic()
    progress = _Progress(len(chosen), started)
    ran = []
    for one in run_all(chosen, options.jobs):
        ran.append(one)
        progress.show(ran)
        if one.failure:
            progress.clear()
            print(f"seed {one.plan.seed} failed", flush=True)
    progress.clear()
    ran.sort(key=lambda one: one.plan.seed)
    print(summary(ran, time.monotonic() - started))
    failed = [one for one in ran if one.failure]
    if len(failed) > SHOWN_FAILURES:
        print(f"\nthe first {SHOWN_FAILURES} of them:")
    for one in failed[:SHOWN_FAILURES]:
        print(f"\n{one.failure}", flush=True)
        if options.shrink > 0:
            print(_shrunk(one, options.shrink), flush=True)
    return 1 if failed else 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Log nothing, and look for cycles between runs alone, until the end."""
    disabled, thresholds = logging.root.manager.disable, gc.get_threshold()
    _quiet()
    try:
        yield
    finally:
        logging.disable(disabled)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    gc.freeze()  # modules stay: there is nothing to look for in them
    # Cycles are looked for between runs: within one it took a tenth of the time for few of them.
    gc.set_threshold(GC_OBJECTS, 20, 100)


def _show(chosen: Iterable[Plan], *, trace: bool) -> int:
    """Run one after the other and print what happens, or its digest."""
    for plan in chosen:
        simulation = Simulation(plan)
        if trace:
            simulation.loop.on_event = print
        try:
            outcome = simulation.run()
        except Violation as violation:
            print(violation)
            return 1
        print(outcome.trace_hash)
        del simulation
        gc.collect()
    return 0


def run_one(plan: Plan) -> Ran:
    """Run a plan to its end or its failure."""
    started = time.process_time()
    simulation = Simulation(plan)
    failure = ""
    try:
        simulation.run()
    except Violation as violation:
        failure = str(violation)
    ran = Ran(plan, simulation.outcome(), failure, time.process_time() - started)
    del simulation
    gc.collect()
    return ran


def run_all(chosen: Sequence[Plan], jobs: int) -> Iterator[Ran]:
    """Run plans in as many processes; results come as they are ready."""
    if jobs <= 1 or len(chosen) == 1:
        yield from map(run_one, chosen)
        return
    # Not forked: a fresh interpreter per process, whatever threads this one has.
    context = multiprocessing.get_context("spawn")
    waiting = iter(chosen)
    with ProcessPoolExecutor(min(jobs, len(chosen)), context, initializer=_quiet) as pool:
        # Few at a time, so that an interrupted run ends soon.
        running: set[Future[Ran]] = {
            pool.submit(run_one, plan) for plan in islice(waiting, 2 * jobs)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            running |= {pool.submit(run_one, plan) for plan in islice(waiting, len(done))}


class _Progress:
    """A bar on a terminal; nothing elsewhere."""

    def __init__(self, total: int, started: float) -> None:
        self._total = total
        self._started = started
        self._on = sys.stderr.isatty()

    def show(self, ran: Sequence[Ran]) -> None:
        if not self._on:
            return
        done, failed = len(ran), sum(bool(one.failure) for one in ran)
        full = BAR_WIDTH * done // self._total
        left = (time.monotonic() - self._started) * (self._total - done) / done
        bar = "█" * full + "░" * (BAR_WIDTH - full)
        text = f"\r{bar} {done}/{self._total} seeds, {failed} failed, {left:.0f} s left "
        sys.stderr.write(text)
        sys.stderr.flush()

    def clear(self) -> None:
        if self._on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def summary(ran: Sequence[Ran], real_s: float) -> str:
    """What all runs came to, as text."""
    counts: Counter[str] = Counter()
    seeds: Counter[str] = Counter()
    for one in ran:
        counts.update(one.outcome.counts)
        seeds.update(one.outcome.counts.keys())
    events = sum(one.outcome.events for one in ran)
    virtual_s = sum(one.outcome.virtual_s for one in ran)
    busy_s = sum(one.seconds for one in ran)
    failed = [str(one.plan.seed) for one in ran if one.failure]
    lines = [f"{'times':>9} {'seeds':>6}"]
    lines += [f"{counts[what]:9} {seeds[what]:6}  {what}" for what in sorted(counts)]
    lines += [
        f"{len(ran)} seeds in {real_s:.1f} s, {events} events",
        f"{virtual_s:.0f} virtual seconds: {virtual_s / max(busy_s, 1e-9):.0f} in one second of a"
        f" processor, {virtual_s / max(real_s, 1e-9):.0f} in a real one",
        f"failed: {', '.join(failed) or 'none'}",
    ]
    return "\n".join(lines)


def _shrunk(one: Ran, seconds: float) -> str:
    """Make a failing run smaller and say what is left of it."""

    def fails(plan: Plan) -> Failed | None:
        return _failed(run_one(plan))

    started = time.monotonic()
    failed = _failed(one)
    assert failed is not None
    plan, failed = shrink(one.plan, failed, fails, lambda: time.monotonic() < started + seconds)
    if plan == one.plan:
        return f"Seed {plan.seed} could not be made smaller in {seconds:.0f} s."
    return f"Seed {plan.seed} made smaller:\n{failed.text}"


def _failed(one: Ran) -> Failed | None:
    if not one.failure:
        return None
    return Failed(one.failure, one.outcome.virtual_s, one.outcome.faults)
