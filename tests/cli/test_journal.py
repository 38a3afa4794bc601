"""Lines to systemd's journal: its native protocol, read back from a socket that plays its part."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.server.config import Config, ConfigError
from kvstore.server.journal import JOURNAL_SOCKET, MAX_MESSAGE_BYTES, JournalHandler
from kvstore.server.log import JsonFormatter, setup_logging


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(10)
        yield listening


def fields(datagram: bytes) -> dict[str, str]:
    """Read a datagram as journald does."""
    found = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram)
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


def sent(journal: socket.socket, level: int, message: str) -> dict[str, str]:
    handler = JournalHandler(str(journal.getsockname()))
    handler.setFormatter(JsonFormatter())
    log = logging.Logger("journal")
    log.addHandler(handler)
    log.log(level, "%s", message)
    handler.close()
    return fields(journal.recv(1 << 20))


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, "7"),
        (logging.INFO, "6"),
        (logging.WARNING, "4"),
        (logging.ERROR, "3"),
        (logging.CRITICAL, "2"),
    ],
)
def test_a_line_arrives_with_its_priority(
    journal: socket.socket, level: int, priority: str
) -> None:
    found = sent(journal, level, "hello")
    assert found["PRIORITY"] == priority
    assert '"msg":"hello"' in found["MESSAGE"]
    assert found["PACKAGE"] == "cli"
    assert found["SYSLOG_IDENTIFIER"]


def test_a_message_of_several_lines_stays_one_field(journal: socket.socket) -> None:
    handler = JournalHandler(str(journal.getsockname()))
    handler.emit(logging.LogRecord("x", logging.INFO, "/a/b.py", 1, "one\ntwo", None, None))
    handler.close()
    assert fields(journal.recv(1 << 20))["MESSAGE"] == "one\ntwo"


def test_a_line_beyond_the_limit_is_cut(journal: socket.socket) -> None:
    assert len(sent(journal, logging.INFO, "x" * (2 * MAX_MESSAGE_BYTES))["MESSAGE"]) == (
        MAX_MESSAGE_BYTES
    )


def test_a_journal_that_goes_away_does_not_hold_the_server_up(journal: socket.socket) -> None:
    handler = JournalHandler(str(journal.getsockname()))
    journal.close()
    handler.emit(logging.LogRecord("x", logging.INFO, "/a/b.py", 1, "lost", None, None))
    handler.close()


@pytest.mark.skipif(os.path.exists(JOURNAL_SOCKET), reason="this machine has a journal")
def test_a_machine_without_journal_is_told() -> None:
    with pytest.raises(ConfigError, match="systemd/journal"):
        setup_logging(Config(log_outputs=("systemd/journal",)))
