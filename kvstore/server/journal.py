"""Log lines to systemd's journal, by its native protocol: one datagram for each line.

The line is the same as elsewhere and becomes MESSAGE; priority, program and directory of the caller
become fields of their own, as in etcd. A library for this is a C extension around libsystemd, which
images of this server need not have.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from typing import Final

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
MAX_MESSAGE_BYTES: Final = 100_000
"""A longer line is cut: a datagram has its limit, and the journal shows no more of it anyway."""

_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)


class JournalHandler(logging.Handler):
    """Sends each line to the journal."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        """Connect. Raises OSError when there is no journal."""
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; a journal that is gone or full loses it, the server goes on."""
        try:
            datagram = b"".join(
                _field(name, value)
                for name, value in (
                    ("PRIORITY", str(_priority(record.levelno))),
                    ("SYSLOG_IDENTIFIER", os.path.basename(sys.argv[0])),
                    ("PACKAGE", os.path.basename(os.path.dirname(record.pathname))),
                    ("MESSAGE", self.format(record)),
                )
            )
            with contextlib.suppress(OSError):
                self._socket.send(datagram)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _priority(level: int) -> int:
    """Return the syslog priority of a level."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def _field(name: str, value: str) -> bytes:
    """Encode ``NAME=value``; a value of several lines goes with its length instead."""
    raw = value.encode(errors="backslashreplace")[:MAX_MESSAGE_BYTES]
    if b"\n" not in raw:
        return b"%s=%s\n" % (name.encode(), raw)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(raw)), raw)
