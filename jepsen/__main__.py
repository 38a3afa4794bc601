"""``python -m jepsen``: picks the subcommand."""

from __future__ import annotations

import signal
import sys

_USAGE = """Usage:

  python -m jepsen chaos [options]   break a cluster of real processes (also: kvstore chaos)
  python -m jepsen power [options]   cut the power of members (needs root and loop devices)
  python -m jepsen sim [options]     run simulated clusters under faults, from seeds
  python -m jepsen soak [options]    chaos, sim and power by turns, until time is up
  python -m jepsen check PLACE       judge the history of a run again
  python -m jepsen mutants [options] look for servers that are broken on purpose
  python -m jepsen hunts [options]   look for the known bugs of etcd in a server
"""


def main() -> int:
    """Run the command; return its exit code."""
    words = sys.argv[1:]
    if words[:1] == ["chaos"]:
        from jepsen.chaos.cli import main as chaos

        return chaos(words[1:])
    if words[:1] == ["power"]:
        from jepsen.power.cli import main as power

        return power(words[1:])
    if words[:1] == ["sim"]:
        from jepsen.sim.cli import main as sim

        return sim(words[1:])
    if words[:1] == ["check"]:
        from jepsen.check import main as check

        return check(words[1:])
    if words[:1] == ["soak"]:
        from jepsen.soak.cli import main as soak

        return soak(words[1:])
    if words[:1] == ["mutants"]:
        from jepsen.mutants.cli import main as mutants

        return mutants(words[1:])
    if words[:1] == ["hunts"]:
        from jepsen.hunts.cli import main as hunts

        return hunts(words[1:])
    sys.stderr.write(_USAGE)
    return 0 if words[:1] in (["help"], ["-h"], ["--help"]) else 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(128 + signal.SIGINT)
