"""Reads settings from etcd's three sources: flags, ``ETCD_*`` variables, a config file.

A command line is read as Go's ``flag`` package reads it (``--name value``, ``--name=value``, one dash
or two, booleans without value), because scripts written for etcd rely on it. Everything that can be
wrong with it is told in etcd's words. Which settings then make sense together is not decided here but
in `kvstore.cli.settings` and `kvstore.server.config`.

The one difference from etcd: a variable that a flag overrides is a warning here, not fatal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from kvstore.cli.flag_table import (
    BY_CONFIG_KEY,
    BY_ENV,
    BY_NAME,
    FLAGS,
    REMOVED_BY_NAME,
    Flag,
    Kind,
)
from kvstore.cli.go_syntax import (
    MAX_INT64,
    MAX_UINT32,
    MAX_UINT64,
    ValueSyntaxError,
    parse_bool,
    parse_duration_ns,
    parse_int,
    parse_uint,
)
from kvstore.server.config import ConfigError
from kvstore.server.urls import UrlError, parse_urls

Value = str | bool | int | tuple[str, ...]
"""A parsed value; durations are integer nanoseconds."""

_UNNOTICED_ENV: Final = frozenset({"ETCD_UNSUPPORTED_ARCH"})
"""Variables that etcd knows although no flag has their name; without effect here."""


class UsageError(Exception):
    """The command line cannot be read: etcd prints the text and the usage, and exits with 2."""


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


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line that was read.

    Attributes:
        positional: what follows the flags; etcd takes nothing there.
        help: ``-h`` or ``--help`` was met (reading stops there).
    """

    values: Mapping[str, Value]
    positional: Sequence[str]
    help: bool = False


_PARSERS: Final[Mapping[Kind, Callable[[str], Value]]] = {
    Kind.STRING: str,
    Kind.ANY: str,
    Kind.BOOL: parse_bool,
    Kind.INT: parse_int,
    Kind.UINT: parse_uint,
    Kind.UINT32: lambda text: parse_uint(text, MAX_UINT32),
    Kind.DURATION: parse_duration_ns,
    Kind.URLS: parse_urls,
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


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Read flags up to the first argument that is none; the last of several equal ones wins.

    Raises:
        UsageError: with the text etcd prints.
    """
    values: dict[str, Value] = {}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if len(argument) < 2 or argument[0] != "-":
            break
        position += 1
        if argument == "--":
            break
        name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        if not name or name[0] == "-":
            raise UsageError(f"bad flag syntax: {argument}")
        if name in ("h", "help"):
            return CommandLine(values, arguments[position:], help=True)
        flag = BY_NAME.get(name)
        if flag is None:
            raise UsageError(_undefined(name))
        if not equals and flag.kind in (Kind.BOOL, Kind.ANY):
            text = "true"
        elif not equals:
            if position == len(arguments):
                raise UsageError(f"flag needs an argument: -{name}")
            text = arguments[position]
            position += 1
        values[name] = _parse_flag(flag, text)
    return CommandLine(values, arguments[position:])


def _parse_flag(flag: Flag, text: str) -> Value:
    try:
        return parse_value(flag, text)
    except ValueError as error:
        if flag.kind is Kind.BOOL:
            raise UsageError(f'invalid boolean value "{text}" for -{flag.name}: {error}') from None
        raise UsageError(f'invalid value "{text}" for flag -{flag.name}: {error}') from None


def _undefined(name: str) -> str:
    text = f"flag provided but not defined: -{name}"
    removed = REMOVED_BY_NAME.get(name)
    if removed is None:
        return text
    instead = f"; use --{removed.replaced_by}" if removed.replaced_by else ""
    return f"{text} (removed, last in etcd {removed.last_in}{instead})"


def read_settings(command_line: CommandLine, environment: Mapping[str, str]) -> Settings:
    """Join the sources as etcd does: a config file stands alone, else flags win over variables.

    Raises:
        ConfigError: a variable or the config file has a bad value; the text names it.
    """
    if command_line.positional:
        raise ConfigError(f"'{command_line.positional[0]}' is not a valid flag")
    path = command_line.values.get("config-file") or environment.get("ETCD_CONFIG_FILE")
    if path:
        return read_config_file(str(path))
    settings = Settings(dict(command_line.values))
    settings.sources = {name: f"--{name}" for name in settings.values}
    _add_environment(settings, environment)
    return settings


def _add_environment(settings: Settings, environment: Mapping[str, str]) -> None:
    for key in sorted(environment):
        if not key.startswith("ETCD_") or key in _UNNOTICED_ENV:
            continue
        flag, text = BY_ENV.get(key), environment[key]
        if key == "ETCD_VERSION":
            fields = {"key": key, "value": text}
            notice = Notice("warn", "cannot set special environment variable", fields)
        elif flag is None or not text:
            fields = {"environment-variable": f"{key}={text}"}
            notice = Notice("warn", "unrecognized environment variable", fields)
        elif flag.name in settings.values:
            fields = {"environment-variable": key}
            notice = Notice(
                "warn",
                "environment variable is shadowed by corresponding command-line flag",
                fields,
            )
        else:
            try:
                settings.values[flag.name] = parse_value(flag, text)
            except ValueError as error:
                raise ConfigError(f'invalid value "{text}" for {key}: {error}') from None
            settings.sources[flag.name] = key
            fields = {"variable-name": key, "variable-value": _shown(flag, text)}
            notice = Notice("info", "recognized and used environment variable", fields)
        settings.notices.append(notice)


def _shown(flag: Flag, text: str) -> str:
    """Keep secrets out of the log."""
    return "********" if flag.name in ("discovery-password", "discovery-user") else text


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
        flag = BY_CONFIG_KEY.get(key)
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
    if isinstance(value, bool) and expected is not bool or not isinstance(value, expected):
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


def usage() -> str:
    """Return the short usage, shown with an error of the command line."""
    return """Usage:

  kvstore server [flags]
    Start a server; the flags are etcd's.

  kvstore server --version
    Show the version.

  kvstore server -h | --help
    Show all flags.

  kvstore server --config-file FILE
    Read the settings from a YAML or JSON file; other flags and environment variables are ignored.
"""


def help_text() -> str:
    """Return the usage and every flag with its default, by group."""
    lines, group = [usage()], ""
    for flag in FLAGS:
        if flag.group != group:
            group = flag.group
            lines.append(f"{group.capitalize()}:")
        note = "" if flag.status.value == "implemented" else f" [{flag.status.value}]"
        lines.append(f"  --{flag.name} '{flag.default}'{note}\n    {flag.description}.")
    return "\n".join(lines) + "\n"
