"""``python -m jepsen power``: many power cuts, for a soak run."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jepsen.options import whole
from jepsen.power import disk
from jepsen.power.run import cut_again_and_again
from jepsen.verdict import Validity


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code: 0 nothing lost, 1 something lost, 2 not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m jepsen power",
        description="Cut the power of members on disks of their own, again and again, and look for"
        " acknowledged writes that are lost and members that do not start. Exit code: 0 nothing"
        " lost, 1 something lost, 2 not possible.",
    )
    parser.add_argument("--cuts", type=whole(1), default=100)
    parser.add_argument("--size", type=whole(1, 9), default=3, help="members")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    why = disk.missing()
    if why:
        sys.stderr.write(f"not possible here: {why}\n")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # disks are taken down, as by Ctrl-C
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="power-") as directory:
        report = cut_again_and_again(
            Path(directory),
            cuts=options.cuts,
            seed=options.seed,
            size=options.size,
            say=lambda line: print(line, flush=True),
        )
    for finding in report.verdict.findings:
        print(f"{finding.kind}: {finding.text}")
    print(f"{report.cuts} cuts, {report.of_all} of all members, {report.acknowledged} acknowledged")
    return 0 if report.verdict.validity is Validity.VALID else 1
