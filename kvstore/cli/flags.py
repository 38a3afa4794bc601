"""Reads settings from etcd's three sources: flags, ``ETCD_*`` variables, a config file.

A command line is read as Go's ``flag`` package reads it (``--name value``, ``--name=value``, one
dash or two, booleans without value), because scripts written for etcd rely on it. Everything that
can be wrong with it is told in etcd's words. Which settings then make sense together is decided in
`kvstore.cli.settings` and `kvstore.server.config`.

The one difference from etcd: a variable that a flag overrides is a warning here, not fatal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvstore.cli.config_file import read_config_file
from kvstore.cli.deprecated_flags import DEPRECATED, DEPRECATED_BY_ENV, move_to_successors
from kvstore.cli.flag_table import BY_ENV, BY_NAME, FLAGS, REMOVED_BY_NAME, Flag, Kind
from kvstore.cli.values import Notice, Settings, Value, parse_value
from kvstore.server.config import ConfigError

_UNNOTICED_ENV: Final = frozenset({"ETCD_UNSUPPORTED_ARCH"})
"""Variables that etcd knows although no flag has their name; without effect here."""


class UsageError(Exception):
    """The command line cannot be read: etcd prints the text and the usage, and exits with 2."""


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
        if flag is None and name in DEPRECATED:
            flag = DEPRECATED[name].flag
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
        settings = read_config_file(str(path))
        move_to_successors(settings)
        return settings
    settings = Settings(dict(command_line.values))
    settings.sources = {name: f"--{name}" for name in settings.values}
    _add_environment(settings, environment)
    move_to_successors(settings)
    return settings


def _add_environment(settings: Settings, environment: Mapping[str, str]) -> None:
    for key in sorted(environment):
        if not key.startswith("ETCD_") or key in _UNNOTICED_ENV:
            continue
        flag, text = BY_ENV.get(key) or DEPRECATED_BY_ENV.get(key), environment[key]
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


_SECRET: Final = frozenset({"discovery-password", "discovery-user"})
_MASK: Final = "********"


def _shown(flag: Flag, text: str) -> str:
    """Keep secrets out of the log."""
    return _MASK if flag.name in _SECRET else text


def shown_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line as it may be logged."""
    shown: list[str] = []
    secret = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        hides = name.startswith("-") and name.lstrip("-") in _SECRET
        shown.append(_MASK if secret else f"{name}={_MASK}" if hides and equals else argument)
        secret = hides and not equals
    return shown


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
        note = "" if not flag.reason else f" [{flag.status.value}: {flag.reason}]"
        lines.append(f"  --{flag.name} '{flag.default}'{note}\n    {flag.description}.")
    return "\n".join(lines) + "\n"
