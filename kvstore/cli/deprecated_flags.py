"""The ``--experimental-…`` flags that etcd 3.6, the release announced here, still takes.

Each stands for a flag without the prefix or, if it was a switch, for a feature gate. The table of
removed flags says which; here they become settings of their successors, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from kvstore.cli.feature_gates import normal_form, parse_gates
from kvstore.cli.flag_table import BY_NAME, REMOVED, Flag, Kind, Removed, Status
from kvstore.cli.values import Notice, Settings
from kvstore.server.config import ConfigError

_LAST_IN: Final = "3.6"
_GATES: Final = "feature-gates"
_CONFIG_KEYS: Final = {
    "experimental-snapshot-catchup-entries": "experimental-snapshot-catch-up-entries"
}
"""Config keys that are not the flag's name."""


@dataclass(frozen=True, slots=True)
class Deprecated:
    """A flag under its old name, and its successor: a flag, or a feature gate if `gate` is set."""

    flag: Flag
    successor: str
    gate: str = ""


def _deprecated(removed: Removed) -> Deprecated:
    key = _CONFIG_KEYS.get(removed.name, removed.name)
    if removed.replaced_by.startswith(_GATES + "="):
        flag = Flag(removed.name, Kind.BOOL, removed.default, "", Status.IMPLEMENTED, key)
        return Deprecated(flag, _GATES, removed.replaced_by.partition("=")[2])
    successor = BY_NAME[removed.replaced_by]
    flag = replace(successor, name=removed.name, default=removed.default, config_key=key)
    return Deprecated(flag, successor.name)


_ALL: Final = tuple(
    _deprecated(removed)
    for removed in REMOVED
    if removed.name.startswith("experimental-") and removed.last_in == _LAST_IN
)
DEPRECATED: Final = {old.flag.name: old for old in _ALL}
DEPRECATED_BY_ENV: Final = {old.flag.env: old.flag for old in _ALL}
DEPRECATED_BY_CONFIG_KEY: Final = {str(old.flag.config_key): old.flag for old in _ALL}


def move_to_successors(settings: Settings) -> None:
    """Replace deprecated flags by what they stand for; as in etcd they win over their successor.

    Raises:
        ConfigError: a switch is set and so is its feature gate.
    """
    given = settings.values.get(_GATES, ())
    assert isinstance(given, tuple)
    gates = parse_gates(",".join(given))
    explicit = dict(gates)
    for name in [name for name in settings.values if name in DEPRECATED]:
        old = DEPRECATED[name]
        value = settings.values.pop(name)
        instead = f"--{old.successor}"
        if old.gate:
            _check_not_both(old, bool(value), explicit)
            instead += f"={old.gate}={str(value).lower()}"
            gates[old.gate] = bool(value)
            value = normal_form(gates)
        settings.values[old.successor] = value
        settings.sources[old.successor] = settings.sources.pop(name)
        message = (
            f"--{name} is deprecated in v3.6 and will be decommissioned in v3.7."
            f" Use '{instead}' instead."
        )
        settings.notices.append(Notice("warn", message, {}))


def _check_not_both(old: Deprecated, value: bool, explicit: dict[str, bool]) -> None:
    if old.gate in explicit:
        gate = f"--{_GATES}={old.gate}={str(explicit[old.gate]).lower()}"
        raise ConfigError(
            f"cannot specify both flags: --{old.flag.name}={str(value).lower()} and {gate}"
            f" at the same time, please just use {gate}"
        )
