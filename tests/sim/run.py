"""Runs many seeds: ``python -m tests.sim.run --seeds 200 --start 1000``."""

from __future__ import annotations

import argparse
import logging
import time

from tests.sim.loop import Violation
from tests.sim.simulator import Simulation


def main() -> int:
    """Run them and return how many failed (at most 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--members", type=int, default=0, help="1 to 5; 0: drawn from the seed")
    parser.add_argument("--chaos", type=float, default=30.0, help="virtual seconds of faults")
    parser.add_argument("--changes", action="store_true", help="members always come and go")
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--hash", action="store_true", help="print the trace's digests alone")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    totals: dict[str, int] = {}
    failed, started = [], time.monotonic()
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        simulation = Simulation(
            seed,
            members=arguments.members,
            chaos_s=arguments.chaos,
            changes=arguments.changes or None,
        )
        if arguments.trace:
            simulation.loop.on_event = print
        try:
            outcome = simulation.run()
        except Violation as violation:
            failed.append(seed)
            print(violation, flush=True)
            continue
        if arguments.hash:
            print(outcome.trace_hash)
        for what, count in outcome.counts.items():
            totals[what] = totals.get(what, 0) + count
    if not arguments.hash:
        for what, count in sorted(totals.items()):
            print(f"{count:9} {what}")
        seconds = time.monotonic() - started
        print(f"{arguments.seeds} seeds in {seconds:.1f} s, failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
