"""Flags that become options of sockets, in the units of the kernel's interface."""

from __future__ import annotations

import pytest

from kvstore.cli.flags import parse_command_line, read_settings
from kvstore.cli.settings import build_config
from kvstore.server.config import Config
from kvstore.sockets import PEER_TIMEOUT_S, SocketOptions


def config(*arguments: str) -> Config:
    return build_config(read_settings(parse_command_line(arguments), {}))


@pytest.mark.parametrize(
    ("given", "seconds"), [("60s", 60.0), ("5s", 5.0), ("1ms", PEER_TIMEOUT_S), ("0", 5.0)]
)
def test_peers_time_outs_are_etcds_or_longer(given: str, seconds: float) -> None:
    sockets = config(f"--raft-write-timeout={given}", f"--raft-read-timeout={given}").peer_sockets
    assert sockets.unacknowledged_s == seconds
    assert sockets.keepalive_s + sockets.keepalive_timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("flags", "keepalive_s", "timeout_s"),
    [
        ([], SocketOptions().keepalive_s, 20.0),
        (["--grpc-keepalive-interval=10s"], 10.0, 20.0),
        (["--grpc-keepalive-timeout=3s"], SocketOptions().keepalive_s, 3.0),
        (["--grpc-keepalive-interval=0"], 0.0, 20.0),
        (["--grpc-keepalive-timeout=0"], 0.0, 0.0),
    ],
)
def test_clients_are_probed_as_asked_for_but_not_later_than_by_default(
    flags: list[str], keepalive_s: float, timeout_s: float
) -> None:
    sockets = config(*flags).client_sockets
    assert (sockets.keepalive_s, sockets.keepalive_timeout_s) == (keepalive_s, timeout_s)


def test_ports_are_shared_on_both_sides_if_asked_for() -> None:
    shared = config("--socket-reuse-port")
    assert shared.client_sockets.reuse_port and shared.peer_sockets.reuse_port
    alone = config()
    assert not alone.client_sockets.reuse_port and not alone.peer_sockets.reuse_port
