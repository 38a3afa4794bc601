"""Hunts for bugs of watches that need one member and no fault."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from jepsen.client import Client
from jepsen.hunts.base import Ground, Hunt, Tries
from jepsen.hunts.book import Book
from jepsen.hunts.processes import Processes, WatchCall, watch_call

VALUE: Final = b"v"
BIG_VALUE: Final = bytes(16 * 1024)
MARK_S: Final = 0.2
"""Between two writes of `marks`."""


def put(book: Book, client: Client, key: bytes, value: bytes = VALUE) -> int:
    """Put and note it; return the revision."""
    return book.wrote("put", key, client.put(key, value).header.revision, value)


@contextlib.contextmanager
def marks(book: Book, client: Client, key: bytes) -> Iterator[None]:
    """Go on writing a key while the context is open, so that a watch that has lost what came
    before shows so, instead of nothing for ever."""
    done = threading.Event()

    def mark() -> None:
        while not done.wait(MARK_S):
            put(book, client, key)

    marking = threading.Thread(target=mark)
    marking.start()
    try:
        yield
    finally:
        done.set()
        marking.join()


def read_until(
    book: Book, call: WatchCall, created: Any, prefix: bytes, start: int, revision: int
) -> None:
    """Note what a new watch shows, until an event of a revision or later; a cancel ends it, which
    the book judges."""
    book.watches(call, created.watch_id, prefix, start)
    book.showed(call, created)
    if created.canceled:
        return
    while True:
        response = call.next()
        book.showed(call, response)
        if response.canceled or any(e.kv.mod_revision >= revision for e in response.events):
            return


def deletion_at_the_compact_revision(ground: Ground) -> Tries:
    """A key is deleted and written again, the history is compacted at the deletion, and a watch
    begins there: the deletion is the first thing that it has to see."""
    with ground.cluster(1) as cluster:
        cluster.start()
        client = cluster.client(0)
        for number in range(3):
            book, key = Book(), b"deleted/%d" % number
            put(book, client, key)
            deleted = book.wrote("delete", key, client.delete(key).header.revision)
            written = put(book, client, key)
            client.compact(deleted, physical=True)
            with watch_call(client) as call:
                read_until(book, call, call.ask(key, deleted), key, deleted, written)
            yield book.judge()


HISTORY: Final = 3000
"""Events that a watch from the beginning has to catch up with."""
QUESTIONS: Final = 20


def progress_while_catching_up(ground: Ground) -> Tries:
    """A watch begins far back, and progress is asked for before it has caught up."""
    with ground.cluster(1) as cluster:
        cluster.start()
        client = cluster.client(0)
        history = Book()
        keys = [b"history/%d" % number for number in range(HISTORY)]
        last = history.wrote_many(keys, client.put_many(keys, VALUE), VALUE)
        for _ in range(3):
            with watch_call(client) as call:
                call.create(b"history/", 1)
                for _ in range(QUESTIONS):
                    call.ask_progress()
                created = call.next()
                while not created.created:
                    created = call.next()
                read_until(history, call, created, b"history/", 1, last)
            yield history.judge()


NEGATIVE: Final = 10
"""Watches at a negative revision beside the good one."""


def watch_at_a_negative_revision(ground: Ground) -> Tries:
    """Watches at revision -1 are created beside one that has a history to catch up with."""
    with ground.cluster(1) as cluster:
        cluster.start()
        client = cluster.client(0)
        book = Book()
        keys = [b"history/%d" % number for number in range(50)]
        last = book.wrote_many(keys, client.put_many(keys, VALUE), VALUE)
        for _ in range(10):
            with watch_call(client) as bad, watch_call(client) as good:
                for _ in range(NEGATIVE):
                    bad.create(b"history/", -1)
                bad.next()  # the server has seen some of them
                created = good.ask(b"history/", 1)
                with marks(book, client, b"history/mark"):
                    read_until(book, good, created, b"history/", 1, last + 1)
            yield book.judge()


WATCHES: Final = 200
WRITES: Final = 10
SLOW_S: Final = 0.002
"""Between two responses that a slow client reads."""


def slow_reader_and_compaction(ground: Ground) -> Tries:
    """Many watches share a stream whose client reads nothing until its events are compacted; then
    it reads slowly. Each watch has to see all of them, or to be told of the compaction."""
    with ground.cluster(1) as cluster:
        cluster.start()
        for _ in range(3):
            yield _slow_reader(cluster)


def _slow_reader(cluster: Processes) -> str:
    book, client = Book(overtaken=True), cluster.client(0)
    slow = Client(cluster.members[0].endpoint)
    with contextlib.closing(slow), watch_call(slow) as call:
        open_watches = set()
        for _ in range(WATCHES):
            created = call.ask(b"slow/")
            start = created.header.revision + 1
            book.watches(call, created.watch_id, b"slow/", start)
            open_watches.add(created.watch_id)
        last = 0
        for number in range(WRITES):
            last = put(book, client, b"slow/%d" % number, BIG_VALUE)
        client.compact(last)
        with marks(book, client, b"slow/mark"):
            while open_watches:
                response = call.next()
                book.showed(call, response)
                if response.canceled or any(e.kv.mod_revision > last for e in response.events):
                    open_watches.discard(response.watch_id)
                time.sleep(SLOW_S)
    return book.judge()


HUNTS: Final = (
    Hunt(
        "18089",
        "a watch from the compact revision sees the deletion at it",
        deletion_at_the_compact_revision,
        cheap=True,
    ),
    Hunt(
        "15220",
        "after progress R no event of R or before",
        progress_while_catching_up,
        cheap=True,
    ),
    Hunt(
        "PR-20693",
        "a watch at a negative revision takes no events from others",
        watch_at_a_negative_revision,
        cheap=True,
    ),
    Hunt(
        "17529",
        "a slow watch sees all events, or is told of the compaction",
        slow_reader_and_compaction,
    ),
)
