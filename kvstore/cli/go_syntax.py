"""Numbers, truth values and durations as Go's ``flag`` package reads them.

etcd's flags are Go's: ``0x10``, ``1_000``, ``T`` and ``1h2.5s`` are all good values. The errors are
Go's two texts, ``parse error`` and ``value out of range``, because etcd prints them.
"""

from __future__ import annotations

import re
from typing import Final

MAX_INT64: Final = 2**63 - 1
MAX_UINT32: Final = 2**32 - 1
MAX_UINT64: Final = 2**64 - 1

_DIGITS: Final = re.compile(
    r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?[0-7])+|[1-9](?:_?[0-9])*|0",
    re.ASCII,
)
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_UNIT_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PIECE: Final = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)


class ValueSyntaxError(ValueError):
    """A text is no value of its kind; the message is the one Go gives."""


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueSyntaxError("parse error")


def parse_uint(text: str, maximum: int = MAX_UINT64) -> int:
    """Return ``text``, an integer literal of Go without sign, 0 .. ``maximum``."""
    if not _DIGITS.fullmatch(text):
        raise ValueSyntaxError("parse error")
    value = _literal(text)
    if value > maximum:
        raise ValueSyntaxError("value out of range")
    return value


def parse_int(text: str) -> int:
    """Return ``text``, an integer literal of Go with an optional sign, -2**63 .. 2**63 - 1."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not _DIGITS.fullmatch(digits):
        raise ValueSyntaxError("parse error")
    value = -_literal(digits) if text[0] == "-" else _literal(digits)
    if not -MAX_INT64 - 1 <= value <= MAX_INT64:
        raise ValueSyntaxError("value out of range")
    return value


def _literal(digits: str) -> int:
    """Return the value of a checked literal; a bare leading zero means octal."""
    if len(digits) > 1 and digits[0] == "0" and digits[1] in "_01234567":
        return int(digits.replace("_", ""), 8)
    return int(digits, 0)


def parse_duration_ns(text: str) -> int:
    """Return a duration of Go (``300ms``, ``-1.5h``, ``1h2m3s``, ``0``) in nanoseconds.

    Fractions below a nanosecond are cut off. Whatever leaves the range of int64 nanoseconds (292
    years) is a parse error, as in Go.
    """
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueSyntaxError("parse error")
    total, position = 0, 0
    while position < len(rest):
        piece = _DURATION_PIECE.match(rest, position)
        if piece is None or not (piece[1] or piece[2]):
            raise ValueSyntaxError("parse error")
        unit = _UNIT_NS[piece[3]]
        total += int(piece[1] or 0) * unit
        if piece[2]:
            total += int(piece[2]) * unit // 10 ** len(piece[2])
        position = piece.end()
    total = -total if text[0] == "-" else total
    if not -MAX_INT64 - 1 <= total <= MAX_INT64:
        raise ValueSyntaxError("parse error")
    return total
