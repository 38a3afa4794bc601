"""``kvstore server``: from a command line to a running member.

Exit codes are etcd's: 2 for a command line that cannot be read (with the usage), 1 for settings
that contradict each other (as a log line), and what the server returns once it ran.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from kvstore.cli.flags import (
    UsageError,
    help_text,
    parse_command_line,
    read_settings,
    shown_arguments,
    usage,
)
from kvstore.cli.settings import NotImplementedFlag, build_config
from kvstore.server.config import Config, ConfigError
from kvstore.server.log import LEVELS, setup_logging
from kvstore.version import own_version, version_lines

log = logging.getLogger("cli")

EXIT_CONFIG: Final = 1
EXIT_USAGE: Final = 2


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run ``kvstore server`` with ``arguments``; return the exit code."""
    try:
        command_line = parse_command_line(arguments)
    except UsageError as error:
        sys.stderr.write(f"{error}\n{usage()}")
        return EXIT_USAGE
    if command_line.help:
        sys.stdout.write(help_text())
        return 0
    if command_line.values.get("version"):
        sys.stdout.write(version_lines())
        return 0
    try:
        settings = read_settings(command_line, environment)
        config = build_config(settings)
        setup_logging(config)
    except NotImplementedFlag as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    except ConfigError as error:
        setup_logging(Config())
        log.error("failed to verify flags", extra={"error": str(error)})
        return EXIT_CONFIG
    for notice in settings.notices:
        log.log(LEVELS[notice.level], notice.message, extra=dict(notice.fields))
    log.info(
        "running", extra={"kvstore-version": own_version(), "arguments": shown_arguments(arguments)}
    )
    # Late, so that a bad command line is answered without loading the server.
    from kvstore.server.process import run

    return run(config)
