"""Runs many seeds: ``python -m tests.differential.run --seeds 500 --start 1000``.

``ETCD_BIN`` names the etcd to compare with. A seed that differs is shortened and printed with the
command that repeats it, and the run goes on.
"""

from __future__ import annotations

import argparse
import time

from tests.differential.generator import sequence
from tests.differential.runner import Runner
from tests.differential.seeds import begin, report, run_seed


def main() -> int:
    """Run them and return how many differed (at most 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--steps", help="only these steps of the sequence, such as 3,5,8")
    parser.add_argument("--fresh", action="store_true", help="these steps on new clusters")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    arguments = parser.parse_args()
    failed, started = [], time.monotonic()
    with Runner() as runner:
        print(f"etcd {'.'.join(map(str, runner.version))} against three members", flush=True)
        for seed in range(arguments.start, arguments.start + arguments.seeds):
            if arguments.steps is not None:
                wanted = set(map(int, arguments.steps.split(",")))
                steps = [step for step in sequence(seed) if step.number in wanted]
                begin(runner, fresh=arguments.fresh)
                difference = runner.run(steps)
                if difference is not None:
                    failed.append(seed)
                    print(report(seed, steps, difference, arguments.fresh), flush=True)
                continue
            try:
                run_seed(runner, seed)
            except AssertionError as error:
                failed.append(seed)
                print(f"\nseed {seed}: {error}\n", flush=True)
                if len(failed) >= arguments.failures:
                    break
        print_totals(runner)
    print(f"{time.monotonic() - started:.0f} s, seeds that differ: {failed or 'none'}")
    return 1 if failed else 0


def print_totals(runner: Runner) -> None:
    """Print what was compared and which known differences were met."""
    totals = runner.totals
    print(f"{totals.sequences} sequences, {totals.requests} requests, {totals.events} events,")
    print(f"{totals.dumps} revisions compared on every member;")
    print(f"{totals.ours_alone} sent to us alone, {totals.left_out} left out")
    for what, count in totals.methods.most_common():
        print(f"{count:9} {what}")
    print("errors of etcd:")
    for what, count in totals.failures.most_common():
        print(f"{count:9} {what}")
    print("known differences:")
    for entry, count in totals.explained.most_common():
        print(f"{count:9} {entry.item}: {entry.reason}")


if __name__ == "__main__":
    raise SystemExit(main())
