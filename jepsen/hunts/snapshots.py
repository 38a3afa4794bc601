"""Hunts for bugs of a member that was cut off until it needs a snapshot."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final

import grpc

from jepsen.hunts.base import Ground, Hunt, Tries
from jepsen.hunts.book import Book
from jepsen.hunts.processes import PATIENCE_S, Processes, WatchCall, until_answered, watch_call
from jepsen.hunts.watches import put, read_until
from kvstore.testing.processes import Member, MemberEnded, NotInTime, wait_until

RECEIVED: Final = "etcd_network_snapshot_receive_success"
WATCHED: Final = b"watched/"
AWAY: Final = b"away/"
"""Key that is written while the member is cut off; nobody watches it."""
SEEN: Final = 20
FUTURE: Final = 20
"""Revisions after the last one that a watch waits for."""


@contextlib.contextmanager
def brought_back(cluster: Processes, away: int) -> Iterator[int]:
    """Cut a member off until it needs a snapshot, and wait at the end until it has received it;
    the context gets the last revision."""
    before = cluster.metric(away, RECEIVED)
    with cluster.cut_off_until_it_needs_a_snapshot(away, AWAY) as last:
        yield last
    wait_until(
        lambda: cluster.metric(away, RECEIVED) > before, PATIENCE_S, "a snapshot is received"
    )


def watch_that_was_in_step(ground: Ground) -> Tries:
    """A watch on the member has seen events before the member is cut off; afterwards it has to go
    on behind them."""
    with ground.cluster(3, links=True) as cluster:
        cluster.start()
        for number in range(3):
            book = Book()
            away, other = cluster.followers()
            with watch_call(cluster.client(away)) as call:
                prefix = WATCHED + b"%d" % number
                created = call.ask(prefix)
                start = created.header.revision + 1
                for _ in range(SEEN):
                    last = put(book, cluster.client(other), prefix)
                read_until(book, call, created, prefix, start, last)
                with brought_back(cluster, away):
                    pass
                _go_on(book, cluster, other, call, prefix)
            yield book.judge()


def watch_for_a_future_revision(ground: Ground) -> Tries:
    """A watch on the member that is cut off waits for a revision behind the snapshot that brings
    the member back; what is written before that revision is not for it."""
    with ground.cluster(3, links=True) as cluster:
        cluster.start()
        for number in range(3):
            book = Book()
            away, other = cluster.followers()
            with watch_call(cluster.client(away)) as call:
                prefix = WATCHED + b"%d" % number
                with brought_back(cluster, away) as last:
                    created = call.ask(prefix, last + FUTURE)
                    book.watches(call, created.watch_id, prefix, last + FUTURE)
                cluster.wait_revision(away, last)
                _go_on(book, cluster, other, call, prefix, 2 * FUTURE)
            yield book.judge()


def _go_on(
    book: Book,
    cluster: Processes,
    through: int,
    call: WatchCall,
    prefix: bytes,
    count: int = SEEN,
) -> None:
    """Write, and read until the last of it has come."""
    for _ in range(count):
        until_answered(lambda: cluster.client(through).get(b"-"))
        last = put(book, cluster.client(through), prefix)
    while True:
        response = call.next()
        book.showed(call, response)
        if any(event.kv.mod_revision >= last for event in response.events):
            return


FILLING: Final = 10_000
"""Keys with which installing a snapshot takes a while."""


def defragmented_while_a_snapshot_is_installed(ground: Ground) -> Tries:
    """The member is told to defragment without pause while it is brought back; then it is killed,
    and has to start again with what the others have."""
    with ground.cluster(3, links=True) as cluster:
        cluster.start()
        for number in range(3):
            away, other = cluster.followers()
            with cluster.cut_off_until_it_needs_a_snapshot(away, AWAY):
                keys = [b"filling/%d/%d" % (number, key) for key in range(FILLING)]
                last = max(cluster.client(other).put_many(keys))
            while _revision(cluster, away) < last:  # not once more: that would mend it
                with contextlib.suppress(grpc.RpcError):
                    cluster.client(away).defragment()
            last = max(cluster.client(other).put_many([b"after"] * SEEN))
            cluster.wait_revision(away, last)
            yield _seen_after_a_kill(cluster, away, last)


def _revision(cluster: Processes, number: int) -> int:
    answer = until_answered(lambda: cluster.client(number).get(b"-", serializable=True))
    return int(answer.header.revision)


def _seen_after_a_kill(cluster: Processes, away: int, revision: int) -> str:
    member = cluster.members[away]
    name = member.name
    try:
        cluster.restart(away)
        cluster.wait_revision(away, revision)
    except MemberEnded:
        return f"{name} does not start again: {_last_words(member)}"
    except NotInTime:
        return f"{name} does not come to revision {revision} again"
    return "" if cluster.same_hash() else f"after the restart {name} has another hash"


def _last_words(member: Member) -> str:
    """Why a member ended: the last line that it logged as fatal, without its stack."""
    found = re.findall(
        r'"level":"(?:panic|fatal)".*?"msg":(.*?),"stacktrace"',
        member.log_path.read_text(errors="replace"),
    )
    return str(found[-1]) if found else member.log_tail()[-300:]


HUNTS: Final = (
    Hunt(
        "15271",
        "a watch never goes back, also when its member is brought back by a snapshot",
        watch_that_was_in_step,
        budget_s=90,
    ),
    Hunt(
        "20221",
        "a watch for a future revision sees nothing before it, also behind a snapshot",
        watch_for_a_future_revision,
        budget_s=90,
    ),
    Hunt(
        "20271",
        "a defragmentation does not disturb the receipt of a snapshot",
        defragmented_while_a_snapshot_is_installed,
        budget_s=120,
    ),
)
