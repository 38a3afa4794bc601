"""Hunts for bugs of leases."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from jepsen.hunts.base import Ground, Hunt, Tries
from jepsen.hunts.processes import PATIENCE_S, NotPossible, Processes, until_answered
from kvstore.testing.processes import NotInTime, wait_until

TTL: Final = 6
STALL_S: Final = 12
"""How long one sync of the stalled leader's log takes: its own clock ends the lease meanwhile."""
RENEW_S: Final = 0.5
ELECTION_S: Final = 4.0
WATCHED_S: Final = 6.0
"""How long after the stall the old leader's late requests are waited for."""
_STRACE: Final = "strace"


@contextlib.contextmanager
def slow_syncs(pid: int, seconds: float) -> Iterator[None]:
    """Let each fsync and fdatasync of a process take so long, by strace; the rest of it runs on.

    Raises:
        NotPossible: there is no strace, or it may not trace.
    """
    if shutil.which(_STRACE) is None:
        raise NotPossible("it needs strace, to let a leader's fsync take long")
    how = f"inject=fsync,fdatasync:delay_enter={int(seconds * 1e6)}"
    command = [_STRACE, "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", how]
    tracer = subprocess.Popen(
        [*command, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            raise NotPossible(f"strace does not attach: {said.strip()}")
        yield
    finally:
        tracer.send_signal(signal.SIGTERM)
        tracer.wait()
        tracer.communicate()


def leader_that_stands_still_in_a_sync(ground: Ground) -> Tries:
    """A leader's sync takes longer than a lease that is renewed through its successor all the time;
    what the old leader decided meanwhile must not end the lease."""
    with ground.cluster(3, links=True) as cluster:
        cluster.start()
        for number in range(3):
            yield _stalled(cluster, b"held/%d" % number)


def _stalled(cluster: Processes, key: bytes) -> str:
    old = cluster.leader()
    client = cluster.client(next(i for i in range(3) if i != old))
    lease = client.grant(TTL).ID
    client.put(key, lease=lease)
    process = cluster.members[old].process
    assert process is not None
    renewed = began = time.monotonic()
    longest = 0.0

    def renew() -> bool:
        """Whether the lease is still there."""
        nonlocal renewed, longest
        asked = time.monotonic()
        if until_answered(lambda: client.keep_alive_once(lease)).TTL <= 0:
            return False
        longest = max(longest, asked - renewed)
        renewed = asked
        time.sleep(RENEW_S)
        return True

    with slow_syncs(process.pid, STALL_S), ThreadPoolExecutor(1) as pool:
        pool.submit(until_answered, lambda: client.put(b"stalling"))
        _let_another_lead(cluster, old)
        while time.monotonic() - began < STALL_S and renew():
            pass
    deadline = time.monotonic() + WATCHED_S
    while time.monotonic() < deadline:
        if not renew():
            since = time.monotonic() - renewed
            if since >= TTL or longest >= TTL:
                return ""  # renewed too late, for whatever reason: it was not promised to be there
            return (
                f"a lease of {TTL} s was gone {since:.1f} s after a renewal was acknowledged"
                f" ({time.monotonic() - began:.0f} s after the leader's stall began)"
            )
    client.revoke(lease)
    return ""


def _let_another_lead(cluster: Processes, old: int) -> None:
    """A leader that sends heartbeats while its disk stands still goes on leading: cut it off until
    the others have chosen."""

    def another_leads() -> bool:
        return cluster.leader() != old

    try:
        wait_until(another_leads, ELECTION_S, "another leads")
    except NotInTime:
        with cluster.partitioned([old]):
            wait_until(another_leads, PATIENCE_S, "another leads")


HUNTS: Final = (
    Hunt(
        "15247",
        "a leader that stood still in a sync ends no lease that its successor renewed",
        leader_that_stands_still_in_a_sync,
        budget_s=60,
    ),
)
