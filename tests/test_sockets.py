"""Listening sockets: errors that name the address, the kernel's options, sockets in files."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kvstore.sockets import (
    AddressInUse,
    SocketOptions,
    close_unix,
    listen_tcp,
    listen_unix,
    peer_sockets,
    shown,
    unix_path,
)


def option(sock: socket.socket, name: str) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


def test_a_taken_port_is_named_in_the_error() -> None:
    with listen_tcp("127.0.0.1", 0, SocketOptions()) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            AddressInUse, match=rf"^\[Errno \d+\] listen tcp 127\.0\.0\.1:{port}: bind: "
        ):
            listen_tcp("127.0.0.1", port, SocketOptions())


def test_an_address_of_another_machine_is_named_in_the_error() -> None:
    with pytest.raises(AddressInUse, match=r"listen tcp 192\.0\.2\.1:0: bind: "):
        listen_tcp("192.0.2.1", 0, SocketOptions())


def test_localhost_is_ipv4() -> None:
    with listen_tcp("localhost", 0, SocketOptions()) as bound:
        assert bound.family == socket.AF_INET
        assert shown(bound) == f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_port_may_be_shared_only_if_both_want_it() -> None:
    shared = SocketOptions(reuse_port=True)
    with listen_tcp("127.0.0.1", 0, shared) as first:
        port = first.getsockname()[1]
        with listen_tcp("127.0.0.1", port, shared) as second:
            assert second.getsockname() == first.getsockname()
        with pytest.raises(AddressInUse):
            listen_tcp("127.0.0.1", port, SocketOptions())


def test_accepted_connections_are_probed_as_asked_for() -> None:
    options = SocketOptions(keepalive_s=7, keepalive_timeout_s=6, unacknowledged_s=3)
    with (
        listen_tcp("127.0.0.1", 0, options) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert option(accepted, "TCP_KEEPIDLE") == 7
            assert option(accepted, "TCP_KEEPINTVL") * option(accepted, "TCP_KEEPCNT") == 6
            assert option(accepted, "TCP_USER_TIMEOUT") == 3000


def test_probes_can_be_switched_off() -> None:
    with listen_tcp("127.0.0.1", 0, SocketOptions(keepalive_s=0)) as listening:
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize("read_s", [5.0, 9.0, 60.0])
def test_a_silent_peer_is_given_up_after_about_its_read_timeout(read_s: float) -> None:
    with listen_tcp("127.0.0.1", 0, peer_sockets(read_s, 20)) as listening:
        probes = option(listening, "TCP_KEEPINTVL") * option(listening, "TCP_KEEPCNT")
        assert read_s <= option(listening, "TCP_KEEPIDLE") + probes < read_s + 4
        assert option(listening, "TCP_USER_TIMEOUT") == 20_000


def test_a_unix_url_is_a_path_as_in_etcd() -> None:
    assert unix_path("unix:///run/etcd.sock") == "/run/etcd.sock"
    assert unix_path("unix://localhost:2379") == "localhost:2379"


def test_a_unix_socket_takes_the_place_of_a_dead_one_and_leaves_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listen_unix(path).close()  # as a killed process leaves it
    bound = listen_unix(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    assert shown(bound) == path
    close_unix(bound)
    bound.close()
    assert not Path(path).exists()


def test_a_unix_socket_that_is_listened_on_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with listen_unix(path), pytest.raises(AddressInUse, match=f"listen unix {path}: "):
        listen_unix(path)


def test_a_file_in_the_place_of_a_unix_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(AddressInUse, match="no socket"):
        listen_unix(str(path))
    assert path.read_text() == "data"
