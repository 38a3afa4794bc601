"""The ``kvstore`` command: picks the subcommand, nothing else.

``server`` has Go's flag syntax and reads its own command line; so the choice is made by hand here,
by the first word, and argparse is left to the subcommands that are ours alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from kvstore.version import version_lines

NOT_HERE: Final = {
    "gateway": "a TCP forwarder; any TCP balancer does that, and clients take several endpoints",
    "grpc-proxy": "a caching proxy; clients connect to the members themselves",
}
"""Subcommands of etcd that this program does not have, and why."""

_USAGE = """Usage:

  kvstore server [flags]     run one member; the flags are etcd's
  kvstore local [options]    run a whole cluster on this machine
  kvstore snapshot ...       save, look at or restore a snapshot; etcd's files and flags
  kvstore chaos [options]    break a cluster of real processes and check its promises
  kvstore version            print the version (also: --version)
"""

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command == "server":
        from kvstore.cli import server

        return server.main(rest)
    if command == "local":
        from kvstore.cli import local

        return local.main(rest)
    if command == "snapshot":
        from kvstore.cli import snapshot

        return snapshot.main(rest)
    if command == "chaos":
        # Not imported: nothing of the server depends on what breaks it.
        os.execv(sys.executable, [sys.executable, "-m", "jepsen", *words])
    if command in ("version", "--version", "-version"):
        sys.stdout.write(version_lines())
        return 0
    if command in ("help", "-h", "--help"):
        sys.stdout.write(_USAGE)
        return 0
    if command in NOT_HERE:
        sys.stderr.write(f"kvstore: {command} is not part of this program: {NOT_HERE[command]}\n")
        return EXIT_USAGE
    problem = f'unknown command "{command}"' if command else "a command is needed"
    sys.stderr.write(f"kvstore: {problem}\n{_USAGE}")
    return EXIT_USAGE
