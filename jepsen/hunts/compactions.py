"""Hunts for bugs of a lone member that is killed while it compacts."""

from __future__ import annotations

import time
from typing import Final

from jepsen.hunts.base import Ground, Hunt, Tries
from jepsen.hunts.book import Book
from jepsen.hunts.processes import NotPossible, Processes, watch_call
from jepsen.hunts.watches import put, read_until

BATCH: Final = 33
"""Revisions that one step of a compaction looks at."""
STEPS: Final = 3
"""After so many full steps nothing is left but to note that the compaction is finished."""
FIRST_KILL_S: Final = 0.010
LAST_KILL_S: Final = 0.130
"""A step takes a sync of the disk and then rests for 10 ms, and the note is on the disk 100 ms
later: a kill within this time is between two steps, or between the last one and the note."""
KILLS: Final = 40


def _kill_s(number: int) -> float:
    """When to kill, over the whole span of time again and again."""
    return FIRST_KILL_S + (LAST_KILL_S - FIRST_KILL_S) * (number * 7 % 20) / 20


def killed_before_a_compaction_is_finished(ground: Ground) -> Tries:
    """The newest revisions are deletions, and are compacted; a member that is killed when they are
    gone, but before it has noted that the compaction is finished, has to know its revision."""
    with ground.cluster(1, compaction_batch=BATCH) as cluster:
        cluster.start()
        client = cluster.client(0)
        kept = 1  # the marker
        keys = [b"gone/%d" % key for key in range((STEPS * BATCH - kept) // 2)]
        for number in range(KILLS):
            compacted(cluster)
            client.put_many(keys)
            for key in keys:
                revision = client.delete(key).header.revision
            client.compact(revision)
            time.sleep(_kill_s(number))
            cluster.restart(0)
            now = client.get(b"-").header.revision
            seen = f"revision {revision} was answered; after the restart it is {now}"
            yield seen if now < revision else ""


def compacted(cluster: Processes) -> None:
    """Compact all but one key: the tries count on full steps."""
    cluster.client(0).compact(cluster.client(0).put(b"marker").header.revision, physical=True)


def deletion_after_a_resumed_compaction(ground: Ground) -> Tries:
    """The history is compacted at a deletion, and the member is killed between the steps; it goes
    on with the compaction when it starts again, and still has to show the deletion."""
    with ground.cluster(1, compaction_batch=BATCH) as cluster:
        cluster.start()
        if _lost(cluster, kill_s=None):
            raise NotPossible("18089 loses that deletion without any kill")
        for number in range(KILLS):
            yield _lost(cluster, _kill_s(number))


def _lost(cluster: Processes, kill_s: float | None) -> str:
    book, client = Book(), cluster.client(0)
    put(book, client, b"watched/")
    client.put_many([b"other"] * 2 * BATCH)
    deleted = book.wrote("delete", b"watched/", client.delete(b"watched/").header.revision)
    client.compact(deleted, physical=kill_s is None)
    if kill_s is not None:
        time.sleep(kill_s)
        cluster.restart(0)
        cluster.restart(0)  # with the compaction that the first restart has gone on with
    written = put(book, client, b"watched/")
    with watch_call(client) as call:
        read_until(book, call, call.ask(b"watched/", deleted), b"watched/", deleted, written)
    return book.judge()


HUNTS: Final = (
    Hunt(
        "17780",
        "a revision never decreases, also after a kill between steps of a compaction",
        killed_before_a_compaction_is_finished,
    ),
    Hunt(
        "19179",
        "a compaction that a restart resumes keeps the deletion at its revision",
        deletion_after_a_resumed_compaction,
    ),
)
