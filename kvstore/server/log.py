"""How log lines look and where they go: JSON lines as zap writes them in etcd, or a console form.

Every module logs with the standard library: ``log.info("text", extra={"index": 7})``; each key of
``extra`` becomes a field of the line, so texts stay constant and searchable. Formatting happens in
the thread that logs, without a queue: a line that was logged is written, also when the process
ends at once after it. What is hot must not log.

The JSON line: ``{"level", "ts" (UTC, milliseconds), "caller", "msg", fields...}``; an exception
adds ``error`` and ``stacktrace``. The console line has the same parts between tabs, the fields as
one JSON object at its end.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from kvstore.server.config import JOURNAL_OUTPUT, STREAM_OUTPUTS, Config, ConfigError
from kvstore.server.journal import JournalHandler
from kvstore.server.log_rotation import LogRotation, RotatingFile

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
"""``--log-level`` to the least level that is written."""

_NAMES: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_RECORD_FIELDS: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", None, None)).keys()
    | {"message", "asctime", "taskName"}
)
"""What the standard library keeps in a record: all else came with ``extra``."""


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(record.msecs):03d}Z"


def _caller(record: logging.LogRecord) -> str:
    """Return ``directory/file.py:line``, as zap's short form."""
    return "/".join(record.pathname.rsplit("/", 2)[-2:]) + f":{record.lineno}"


def _fields(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, object]:
    fields = {k: v for k, v in vars(record).items() if k not in _RECORD_FIELDS}
    if record.exc_info and record.exc_info[1] is not None:
        fields.setdefault("error", str(record.exc_info[1]))
        fields["stacktrace"] = formatter.formatException(record.exc_info)
    return fields


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "level": _NAMES.get(record.levelno, "info"),
            "ts": _timestamp(record),
            "caller": _caller(record),
            "msg": record.getMessage(),
        }
        for key, value in _fields(record, self).items():
            line.setdefault(key, value)
        return _to_json(line)


class ConsoleFormatter(logging.Formatter):
    """Tab-separated: time, level, caller, message and, if there are any, the fields as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            _timestamp(record),
            _NAMES.get(record.levelno, "info"),
            _caller(record),
            record.getMessage(),
        ]
        if fields := _fields(record, self):
            parts.append(_to_json(fields))
        return "\t".join(parts)


def _open_output(output: str, rotation: LogRotation | None) -> logging.Handler:
    if output in STREAM_OUTPUTS:
        return logging.StreamHandler(sys.stdout if output == "stdout" else sys.stderr)
    try:
        if output == JOURNAL_OUTPUT:
            return JournalHandler()
        if rotation is not None:
            return RotatingFile(output, rotation)
        return logging.FileHandler(output, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f'--log-outputs: couldn\'t open sink "{output}": open {output}: {error.strerror}'
        ) from error


def setup_logging(config: Config) -> None:
    """Send the whole process's log to ``config.log_outputs``; replaces an earlier set-up.

    Raises:
        ConfigError: an output cannot be opened; then the earlier set-up stays.
    """
    outputs = dict.fromkeys(config.log_outputs)
    handlers = [_open_output(output, config.log_rotation) for output in outputs]
    formatter = JsonFormatter() if config.log_format == "json" else ConsoleFormatter()
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(LEVELS[config.log_level])
    logging.captureWarnings(True)
