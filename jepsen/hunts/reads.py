"""A hunt for stale linearizable reads around a leader that was paused."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from jepsen.client import Client
from jepsen.hunts.base import Ground, Hunt, Tries
from jepsen.hunts.processes import PATIENCE_S, Processes, until_answered
from kvstore.testing.links import Link
from kvstore.testing.processes import wait_until

KEY: Final = b"read"
DELAY_S: Final = 0.7
"""From the leader to the member that reads: it asks again, as etcd does after 0.5 and 1.0 s, once
before and once after the leader has the answer to its first question."""
PAUSE_AFTER_S: Final = 0.85
"""The leader has answered then, and the second repetition is not sent yet."""
STALE_S: Final = 2.0
"""Time-out of the read that may be stale; one that finds no quorum takes it whole."""
SETTLE_S: Final = 0.1
TRIES: Final = 15
OLD, ASKING, OTHER = range(3)
"""The leader that is paused, the member that reads, and the one that should lead next."""
ELECTION_MS: Final = {OLD: 1500, ASKING: 1500, OTHER: 500}
"""Messages of a next leader would depose the old one too early; those of `OTHER` come last."""


def leader_paused_between_a_read_and_its_repetition(ground: Ground) -> Tries:
    """A follower's question for the read index reaches the old leader twice, the second time after
    a younger question, and an old acknowledgement arrives behind it; the younger one must not be
    taken for confirmed by that."""
    with ground.cluster(3, links=True) as cluster:
        for number, timeout_ms in ELECTION_MS.items():
            cluster.own_flags[number] = (f"--election-timeout={timeout_ms}",)
        cluster.start()
        for _ in range(TRIES):
            yield _try(cluster)
            cluster.heal()
            cluster.wait_ready()


def _try(cluster: Processes) -> str:
    old, asking, other = OLD, ASKING, OTHER
    links = cluster.links
    assert links is not None
    until_answered(lambda: _lead(cluster, old))
    cluster.wait_ready()
    cluster.client(asking).put(KEY)
    direct = Client(cluster.members[old].endpoint)
    with contextlib.closing(direct), ThreadPoolExecutor(2) as pool:
        direct.get(KEY)
        links.change([(old, asking)], _delay)
        links.change([(other, old)], _cut)
        first = pool.submit(cluster.client(asking).get, KEY)
        time.sleep(PAUSE_AFTER_S)
        cluster.pause(old)
        try:
            links.change([(asking, old), (old, asking), (old, other)], _cut)
            with contextlib.suppress(grpc.RpcError):
                first.result()
            wait_until(lambda: cluster.leader() != old, PATIENCE_S, "another leads")
            written = until_answered(lambda: cluster.client(other).put(KEY)).header.revision
        finally:
            cluster.resume(old)
        late = pool.submit(direct.get, KEY, timeout=STALE_S)
        time.sleep(SETTLE_S)  # the old leader has the younger question
        links.change([(asking, old)], Link.heal)
        time.sleep(SETTLE_S)
        links.change([(other, old)], Link.heal)
        try:
            answer = late.result()
        except grpc.RpcError:
            return ""
    seen = answer.kvs[0].mod_revision
    if seen >= written:
        return ""
    return (
        f"a put was acknowledged at revision {written}; a linearizable read that was sent after"
        f" that to the leader before was answered with revision {seen}"
    )


def _lead(cluster: Processes, number: int) -> None:
    leader = cluster.leader()
    if leader != number:
        cluster.client(leader).move_leader(cluster.status(number).header.member_id)


def _cut(link: Link) -> None:
    link.cut = True


def _delay(link: Link) -> None:
    link.delay_s = DELAY_S


HUNTS: Final = (
    Hunt(
        "20418",
        "no linearizable read is stale, also of a leader that was paused",
        leader_paused_between_a_read_and_its_repetition,
        budget_s=90,
    ),
)
