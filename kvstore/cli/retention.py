"""Reads ``--auto-compaction-retention``, whose meaning depends on the mode; errors are etcd's."""

from __future__ import annotations

import re
from typing import Final

from kvstore.cli.go_syntax import ValueSyntaxError, parse_duration_ns
from kvstore.server.config import PERIODIC, AutoCompaction, ConfigError

_NUMBER: Final = re.compile(r"[+-]?\d+", re.ASCII)
_NO_UNIT: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_UNKNOWN_UNIT: Final = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h))*"
    r"(?:\d+\.?\d*|\.\d+)([^\d.]+)",
    re.ASCII,
)
_HOUR_S: Final = 3600.0
_NS_PER_S: Final = 10**9


def parse_retention(mode: str, text: str) -> AutoCompaction | None:
    """Return what ``text`` means in ``mode``; None for 0.

    A bare number is hours in periodic mode, revisions in the other, where a duration is taken as
    its number of nanoseconds, as in etcd.

    Raises:
        ConfigError: not a number or duration, or below zero.
    """
    if _NUMBER.fullmatch(text) and int(text) >= 0:
        retention = int(text) * _HOUR_S if mode == PERIODIC else float(int(text))
    else:
        ns = _duration_ns(text)
        retention = ns / _NS_PER_S if mode == PERIODIC else float(ns)
    if retention < 0:
        raise ConfigError(f"--auto-compaction-retention must be >=0 (set to {text})")
    return AutoCompaction(mode, retention) if retention else None


def _duration_ns(text: str) -> int:
    try:
        return parse_duration_ns(text)
    except ValueSyntaxError:
        unit = _UNKNOWN_UNIT.match(text)
        if _NO_UNIT.fullmatch(text):
            reason = f'missing unit in duration "{text}"'
        elif unit is not None:
            reason = f'unknown unit "{unit[1]}" in duration "{text}"'
        else:
            reason = f'invalid duration "{text}"'
        raise ConfigError(f"error parsing CompactionRetention: time: {reason}") from None
