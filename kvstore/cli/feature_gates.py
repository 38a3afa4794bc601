"""Reads the text of ``--feature-gates``; errors are etcd's."""

from __future__ import annotations

from kvstore.cli.go_syntax import ValueSyntaxError, parse_bool
from kvstore.server.features import ALL, GATES


def parse_gates(text: str) -> dict[str, bool]:
    """Read ``Name=true,Name=false,...``; empty pieces are skipped, the last of equal names wins.

    Raises:
        ValueSyntaxError: no value, a bad one, or a name that is not known.
    """
    found: dict[str, bool] = {}
    for piece in text.split(","):
        if piece:
            name, equals, value = piece.partition("=")
            found[name.strip()] = _switch(name.strip(), equals, value.strip())
    for name in found:
        if name not in GATES and name not in ALL:
            raise ValueSyntaxError(f"unrecognized feature gate: {name}")
    return found


def _switch(name: str, equals: str, value: str) -> bool:
    if not equals:
        raise ValueSyntaxError(f"missing bool value for {name}")
    try:
        return parse_bool(value)
    except ValueSyntaxError:
        raise ValueSyntaxError(
            f"invalid value of {name}={value}, err: "
            f'strconv.ParseBool: parsing "{value}": invalid syntax'
        ) from None


def normal_form(gates: dict[str, bool]) -> tuple[str, ...]:
    """Return ``("Name=true", ...)``, by name."""
    return tuple(f"{name}={str(value).lower()}" for name, value in sorted(gates.items()))
