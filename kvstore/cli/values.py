"""Settings on their way: what a user set, by flag name, before it becomes a configuration.

How one value is read from text lives here, because flags, variables and the strings of the config
file are read alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kvstore.cli.feature_gates import normal_form, parse_gates
from kvstore.cli.flag_table import Flag, Kind
from kvstore.cli.go_syntax import (
    MAX_UINT32,
    ValueSyntaxError,
    parse_bool,
    parse_duration_ns,
    parse_int,
    parse_uint,
)
from kvstore.membership.urls import parse_urls

Value = str | bool | int | tuple[str, ...]
"""A parsed value; durations are integer nanoseconds."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A log line to write as soon as there is a log."""

    level: str
    message: str
    fields: Mapping[str, object]


@dataclass(slots=True)
class Settings:
    """What the user set, by flag name; what was not set is not in it.

    Attributes:
        sources: where each value comes from, for error texts (``--name``, ``ETCD_NAME``, ...).
        config_file: the file that was read; empty without one.
    """

    values: dict[str, Value] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    config_file: str = ""
    notices: list[Notice] = field(default_factory=list)


_PARSERS: Final[Mapping[Kind, Callable[[str], Value]]] = {
    Kind.STRING: str,
    Kind.ANY: str,
    Kind.BOOL: parse_bool,
    Kind.INT: parse_int,
    Kind.UINT: parse_uint,
    Kind.UINT32: lambda text: parse_uint(text, MAX_UINT32),
    Kind.DURATION: parse_duration_ns,
    Kind.URLS: parse_urls,
    Kind.GATES: lambda text: normal_form(parse_gates(text)),
    Kind.STRINGS: lambda text: tuple(text.split(",")) if text else (),
}


def parse_value(flag: Flag, text: str) -> Value:
    """Return the value of ``text`` for ``flag``; raise ValueError with Go's or etcd's reason."""
    if flag.kind is Kind.ENUM:
        if text not in (*flag.choices, flag.default):
            raise ValueSyntaxError("invalid value")
        return text
    if flag.name == "cors" and text == "*":
        return ("*",)
    return _PARSERS[flag.kind](text)


def default_value(flag: Flag) -> Value:
    """Return the value that ``flag`` has when it is not set."""
    return parse_value(flag, flag.default)
