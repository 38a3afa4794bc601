"""Cuts a body that is a sequence of JSON objects into the objects, as its bytes come in.

Each byte is looked at once, however small the pieces are in which it comes: an object is found by
its brackets, strings apart, and parsed only when it is whole. That a whole one is really JSON is
for its reader to say.
"""

from __future__ import annotations

import re
from typing import Final

from kvstore.gateway.json_in import BadJson

MAX_DEPTH: Final = 10_000
"""Brackets within brackets, at which etcd's JSON parser gives up too."""

_BLANK: Final = re.compile(rb"[ \t\r\n]*")
_OUTSIDE: Final = re.compile(rb'["{}\[\]]')
_INSIDE: Final = re.compile(rb'["\\]')


class TooLong(Exception):
    """An object is longer than the limit."""


class Splitter:
    """The cutting of one body; ``limit``: most bytes of one object."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> None:
        """Add the next bytes of the body."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Return the next object, or None when it is not complete yet.

        Raises BadJson when something else than an object begins, and TooLong.
        """
        end = self._end()
        if end is None:
            if len(self._buffer) > self._limit:
                raise TooLong
            return None
        if end > self._limit:
            raise TooLong
        found = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._at = 0
        return found

    def finish(self) -> None:
        """The body has ended. Raises BadJson inside an object."""
        if self._buffer:
            raise BadJson("unexpected EOF")

    def _end(self) -> int | None:
        """Return where the first object in the buffer ends; None when that is not here yet."""
        buffer = self._buffer
        if not self._depth:
            del buffer[: _BLANK.match(buffer).end()]  # type: ignore[union-attr]
            if not buffer:
                return None
            if buffer[0] != 0x7B:
                raise BadJson(f"unexpected token {chr(buffer[0])!r}, want an object")
        while True:
            if self._in_string:
                found = _INSIDE.search(buffer, self._at)
            else:
                found = _OUTSIDE.search(buffer, self._at)
            if found is None:
                self._at = len(buffer)
                return None
            at = found.start()
            byte = buffer[at]
            if byte == 0x5C:  # backslash: the next byte does not count
                if at + 1 == len(buffer):
                    self._at = at
                    return None
                self._at = at + 2
                continue
            self._at = at + 1
            if byte == 0x22:
                self._in_string = not self._in_string
            elif byte in b"{[":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise BadJson("exceeded max depth")
            else:
                self._depth -= 1
                if not self._depth:
                    return self._at
