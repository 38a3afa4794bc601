"""Reads etcd's config file: YAML or JSON, keys as in etcd, durations in integer nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from kvstore.cli.deprecated_flags import DEPRECATED_BY_CONFIG_KEY
from kvstore.cli.flag_table import BY_CONFIG_KEY, REMOVED_BY_NAME, Flag, Kind
from kvstore.cli.go_syntax import MAX_INT64, MAX_UINT32, MAX_UINT64
from kvstore.cli.values import Notice, Settings, Value, parse_value
from kvstore.membership.urls import UrlError
from kvstore.server.config import ConfigError


def read_config_file(path: str) -> Settings:
    """Read a YAML (or JSON) config file; keys are etcd's.

    Unlike etcd, which ignores them, unknown keys are errors: a misspelt setting must not be lost.
    Keys that etcd removed pass, with a warning, as long as they hold their old default.

    Raises:
        ConfigError: the file cannot be read or a key or value is bad; the text names file and key.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config-file: open {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"--config-file {path}: not YAML or JSON: {text}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"--config-file {path}: must hold a mapping of keys to values")
    settings = Settings(config_file=path)
    message = (
        "loaded server configuration, other configuration command line flags and environment "
        "variables will be ignored if provided"
    )
    settings.notices.append(Notice("info", message, {"path": path}))
    _add_keys(settings, "", document)
    return settings


_SECTIONS: Final = frozenset(
    key[: i]
    for key in BY_CONFIG_KEY
    for i, character in enumerate(key)
    if character == "."
)  # fmt: skip


def _add_keys(settings: Settings, prefix: str, mapping: Mapping[object, object]) -> None:
    for raw_key, value in mapping.items():
        key = prefix + str(raw_key)
        if key in _SECTIONS:
            if isinstance(value, dict):
                _add_keys(settings, key + ".", value)
            elif value is not None:
                raise ConfigError(f'--config-file {settings.config_file}: "{key}" is a section')
            continue
        flag = BY_CONFIG_KEY.get(key) or DEPRECATED_BY_CONFIG_KEY.get(key)
        if flag is None:
            _check_removed(settings, key, value)
        elif value is not None:
            settings.values[flag.name] = _config_value(settings.config_file, key, flag, value)
            settings.sources[flag.name] = f'"{key}" in {settings.config_file}'


def _check_removed(settings: Settings, key: str, value: object) -> None:
    removed = REMOVED_BY_NAME.get(key)
    where = f"--config-file {settings.config_file}"
    if removed is None:
        raise ConfigError(f'{where}: unknown key "{key}"')
    old_default = {"": removed.default, "None": removed.default, "False": "false", "True": "true"}
    if old_default.get(str(value), str(value)) != removed.default:
        instead = f"; use {removed.replaced_by}" if removed.replaced_by else ""
        raise ConfigError(
            f'{where}: key "{key}" was removed, last in etcd {removed.last_in}{instead}'
        )
    fields = {"key": key, "last-in": removed.last_in}
    settings.notices.append(Notice("warn", "ignored removed key of the config file", fields))


_CONFIG_TYPES: Final[Mapping[Kind, tuple[type, str]]] = {
    Kind.STRING: (str, "a string"),
    Kind.URLS: (str, "a string of comma-separated URLs"),
    Kind.ENUM: (str, "a string"),
    Kind.GATES: (str, "a string of Name=true|false pairs"),
    Kind.BOOL: (bool, "true or false"),
    Kind.INT: (int, "an integer"),
    Kind.UINT: (int, "an integer"),
    Kind.UINT32: (int, "an integer"),
    Kind.DURATION: (int, "an integer number of nanoseconds"),
}
_RANGES: Final = {
    Kind.INT: (-MAX_INT64 - 1, MAX_INT64),
    Kind.DURATION: (-MAX_INT64 - 1, MAX_INT64),
    Kind.UINT: (0, MAX_UINT64),
    Kind.UINT32: (0, MAX_UINT32),
}


def _config_value(path: str, key: str, flag: Flag, value: object) -> Value:
    """Return the value of a key, which has a type of its own in YAML, unlike a flag's text."""
    where = f'--config-file {path}: key "{key}"'
    if flag.kind is Kind.STRINGS:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if isinstance(value, str):
            return parse_value(flag, value)
        raise ConfigError(f"{where} must be a list of strings")
    expected, described = _CONFIG_TYPES[flag.kind]
    if (isinstance(value, bool) and expected is not bool) or not isinstance(value, expected):
        raise ConfigError(f"{where} must be {described}")
    if isinstance(value, int):
        low, high = _RANGES.get(flag.kind, (0, 1))
        if not low <= value <= high:
            raise ConfigError(f"{where} must be {described}, {low} to {high}")
        return value
    assert isinstance(value, str)
    try:
        return parse_value(flag, value)
    except UrlError as error:
        raise ConfigError(f"{where}: unexpected error setting up {key}: {error}") from None
    except ValueError as error:
        raise ConfigError(f'{where}: invalid value "{value}": {error}') from None
