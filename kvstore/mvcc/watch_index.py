"""Which watchers does a key concern? Answered by look-ups, not by asking every watcher.

Intervals are half-open [start, end), end None = no upper bound. Four kinds, by how clients watch:
one key (a dict), a prefix (a dict, asked once for each distinct prefix length), everything (one
group), and any other interval (a list of distinct intervals, each compared).

    watch "a"          exact["a"]            key "a"    -> exact["a"], prefix["a"]
    watch prefix "a"   prefix["a"]           key "ab"   -> prefix["a"], prefix["ab"]
    watch prefix "ab"  prefix["ab"]          key "b"    -> nothing

Trade-off: an event costs one comparison for each distinct odd interval; clients hardly use those.
Groups are dicts used as ordered sets, so that delivery order does not depend on object addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Ranged(Protocol):
    """Something that watches [key, end)."""

    @property
    def key(self) -> bytes: ...
    @property
    def end(self) -> bytes | None: ...


T = TypeVar("T", bound=Ranged)

_FIRST_KEY = b"\x00"


def interval(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    """Normalise the range of a WatchCreateRequest to [start, end) (WCH-06, WCH-07).

    The permission check and the watch must use this one result. The interval is empty when `end`
    is not None and end <= start; `WatchStream.create` refuses that (WCH-09).
    """
    start = key or _FIRST_KEY
    if not range_end:
        return start, start + b"\x00"
    return start, None if range_end == b"\x00" else range_end


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the end of the interval of all keys with this prefix, None = no upper bound."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class WatchIndex(Generic[T]):
    """A collection of ranged items, searched by key. Each item is in it at most once."""

    __slots__ = ("_everything", "_exact", "_length_counts", "_lengths", "_others", "_prefix")

    def __init__(self) -> None:
        self._exact: dict[bytes, dict[T, None]] = {}
        self._prefix: dict[bytes, dict[T, None]] = {}
        self._length_counts: dict[int, int] = {}
        self._lengths: list[int] = []  # distinct lengths of the keys of _prefix, ascending
        self._others: dict[tuple[bytes, bytes | None], dict[T, None]] = {}
        self._everything: dict[T, None] = {}

    def __iter__(self) -> Iterator[T]:
        for groups in (self._exact, self._prefix, self._others):
            for group in groups.values():
                yield from group
        yield from self._everything

    def __bool__(self) -> bool:
        return bool(self._exact or self._prefix or self._others or self._everything)

    def add(self, item: T) -> None:
        """Add an item; its range must not be empty."""
        key, end = item.key, item.end
        if end == key + b"\x00":
            self._exact.setdefault(key, {})[item] = None
        elif key == _FIRST_KEY and end is None:
            self._everything[item] = None
        elif end == prefix_end(key):
            if key not in self._prefix:
                self._prefix[key] = {}
                self._count_length(len(key), 1)
            self._prefix[key][item] = None
        else:
            self._others.setdefault((key, end), {})[item] = None

    def remove(self, item: T) -> None:
        """Remove an item.

        Raises:
            KeyError: it is not here.
        """
        key, end = item.key, item.end
        if end == key + b"\x00":
            del self._exact[key][item]
            if not self._exact[key]:
                del self._exact[key]
        elif key == _FIRST_KEY and end is None:
            del self._everything[item]
        elif end == prefix_end(key):
            del self._prefix[key][item]
            if not self._prefix[key]:
                del self._prefix[key]
                self._count_length(len(key), -1)
        else:
            del self._others[key, end][item]
            if not self._others[key, end]:
                del self._others[key, end]

    def groups(self, key: bytes) -> list[dict[T, None]]:
        """Return the groups whose items all watch `key`; no item is in two of them.

        The groups are the index's own: do not add or remove while walking through them.
        """
        found = []
        if group := self._exact.get(key):
            found.append(group)
        key_length = len(key)
        prefix = self._prefix
        for length in self._lengths:
            if length > key_length:
                break
            if group := prefix.get(key[:length]):
                found.append(group)
        for (start, end), group in self._others.items():
            if start <= key and (end is None or key < end):
                found.append(group)
        if self._everything:
            found.append(self._everything)
        return found

    def _count_length(self, length: int, change: int) -> None:
        count = self._length_counts.pop(length, 0) + change
        if count:
            self._length_counts[length] = count
        self._lengths = sorted(self._length_counts)
