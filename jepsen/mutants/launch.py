"""Starts a broken member: ``python -m jepsen.mutants NAME server <flags>``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jepsen.mutants.guard import Refused, require_source_checkout
from jepsen.mutants.registry import mutants

EXIT_REFUSED = 2
FIRST_CALL = "first call of the broken "
"""In a member's log, before the name of a patched function."""


def program(name: str) -> tuple[str, ...]:
    """The words that start a member with this mutant, for `kvstore.testing.Cluster`."""
    return (sys.executable, "-m", "jepsen.mutants", name, "server")


def broken_program(name: str) -> tuple[str, ...]:
    """`program`, checked. Raises Refused in an installed release, or for an unknown name."""
    require_source_checkout()
    if name not in mutants():
        raise Refused(f"{name!r} is none of {', '.join(mutants())}")
    return program(name)


def main(arguments: Sequence[str]) -> int:
    """Break this process, then run ``kvstore`` with the words behind the name."""
    try:
        require_source_checkout()
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return EXIT_REFUSED
    known = mutants()
    if len(arguments) < 2 or arguments[0] not in known or arguments[1] != "server":
        sys.stderr.write("usage: python -m jepsen.mutants NAME server [flags]\nNAME is one of:\n")
        sys.stderr.writelines(f"  {name}\n" for name in known)
        return EXIT_REFUSED
    from kvstore.cli.main import main as kvstore

    def called(name: str) -> None:
        sys.stderr.write(f"{FIRST_CALL}{name}\n")
        sys.stderr.flush()

    with known[arguments[0]].applied(called):
        sys.stderr.write(f"this member is broken on purpose: {arguments[0]}\n")
        return kvstore(arguments[1:])
