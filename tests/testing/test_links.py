"""Links do what they are told to each direction, and nothing gets lost on the way."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from kvstore.testing.links import CLIENTS, OUTSIDE, Link, Links

ANSWER_S = 10.0
SILENCE_S = 0.3
"""How long a cut link is watched; nothing may come in that time, so a longer wait tests more."""


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets, many connections at once."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links()
    yield made
    made.close()


def dial(links: Links, echo: tuple[str, int], member: int = 1) -> socket.socket:
    port = links.listen(("127.0.0.1", 0), echo, member)
    return socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)


def answered(connection: socket.socket, data: bytes) -> bytes:
    got = b""
    while len(got) < len(data):
        part = connection.recv(len(data) - len(got))
        assert part, "closed"
        got += part
    return got


def silent(connection: socket.socket) -> bool:
    return not select.select([connection], [], [], SILENCE_S)[0]


def cut(link: Link) -> None:
    link.cut = True


def test_bytes_pass_unchanged_both_ways_and_so_does_the_end(
    links: Links, echo: tuple[str, int]
) -> None:
    with dial(links, echo) as connection:
        data = os.urandom(3_000_000)
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert answered(connection, data) == data
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("pair", [(OUTSIDE, 1), (1, OUTSIDE)])
def test_a_cut_direction_holds_bytes_and_healing_delivers_them(
    links: Links, echo: tuple[str, int], pair: tuple[int, int]
) -> None:
    with dial(links, echo) as connection:
        connection.sendall(b"before")
        assert answered(connection, b"before") == b"before"
        links.change([pair], cut)
        connection.sendall(b"after")
        assert silent(connection)
        links.heal()
        assert answered(connection, b"after") == b"after"
    assert links.held()[pair] >= len(b"after")


def test_a_new_connection_over_a_cut_link_hangs_until_it_heals(
    links: Links, echo: tuple[str, int]
) -> None:
    links.change([(OUTSIDE, 1)], cut)
    with dial(links, echo) as connection:
        connection.sendall(b"hello")
        assert silent(connection)
        links.heal()
        assert answered(connection, b"hello") == b"hello"


def test_other_members_links_are_not_touched(links: Links, echo: tuple[str, int]) -> None:
    links.change([(0, 1), (1, 0), (OUTSIDE, 2)], cut)
    with dial(links, echo, member=1) as connection:
        connection.sendall(b"through")
        assert answered(connection, b"through") == b"through"


def test_a_dialing_process_is_known_by_its_socket(links: Links, echo: tuple[str, int]) -> None:
    links.set_pid(0, os.getpid())
    links.change([(0, 1)], cut)
    with dial(links, echo) as connection:
        connection.sendall(b"x")
        assert silent(connection)


def test_a_slow_link_still_delivers_everything_in_order(
    links: Links, echo: tuple[str, int]
) -> None:
    def slow(link: Link) -> None:
        link.delay_s, link.jitter_s, link.loss, link.bytes_per_s = 0.02, 0.02, 0.2, 5e6

    links.change([(OUTSIDE, 1), (1, OUTSIDE)], slow)
    with dial(links, echo) as connection:
        data = os.urandom(300_000)
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert answered(connection, data) == data
        sender.join()
    assert set(links.held()) == {(OUTSIDE, 1), (1, OUTSIDE)}


def test_a_reset_breaks_the_connections_of_one_member(links: Links, echo: tuple[str, int]) -> None:
    with dial(links, echo, 1) as one, dial(links, echo, 2) as other:
        for connection in (one, other):
            connection.sendall(b"x")
            assert answered(connection, b"x") == b"x"
        assert links.reset(1) == 1
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(1) == b""
        other.sendall(b"y")
        assert answered(other, b"y") == b"y"


def test_nothing_is_left_of_a_connection_whose_ends_are_reset(
    echo: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever end breaks, and whatever waits on it: no task stays, none fails unheard."""
    links = Links()
    with dial(links, echo) as healthy:
        for cut_first in (False, True):
            for _ in range(2):
                broken = dial(links, echo)
                broken.sendall(b"x" * 10)
                assert answered(broken, b"x" * 10)
                if cut_first:
                    links.change([(1, OUTSIDE)], cut)
                broken.settimeout(SILENCE_S)
                with contextlib.suppress(TimeoutError):  # nobody reads: all on the way is full
                    broken.sendall(b"y" * 32_000_000)
                links.reset(1)
                broken.close()
                links.heal()
        healthy.close()
        gc.collect()
    links.close()
    gc.collect()
    assert caplog.records == []


def test_a_half_open_connection_tells_neither_end_and_new_ones_work(
    links: Links, echo: tuple[str, int]
) -> None:
    port = links.listen(("127.0.0.1", 0), echo, 1)
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
        connection.sendall(b"before")
        assert answered(connection, b"before") == b"before"
        assert links.lose(1) == 1
        connection.sendall(b"into the void")
        assert silent(connection)
        links.heal()
        assert silent(connection)
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as another:
            another.sendall(b"hello")
            assert answered(another, b"hello") == b"hello"
    assert links.held()[OUTSIDE, 1] >= len(b"into the void")


def test_connections_of_clients_are_broken_without_those_of_others(
    links: Links, echo: tuple[str, int]
) -> None:
    for_clients = links.listen(("127.0.0.1", 0), echo, 1, dialer=CLIENTS)
    with (
        socket.create_connection(("127.0.0.1", for_clients), timeout=ANSWER_S) as client,
        dial(links, echo) as other,
    ):
        for connection in (client, other):
            connection.sendall(b"here")
            assert answered(connection, b"here") == b"here"
        assert links.reset(1, CLIENTS) == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        other.sendall(b"still")
        assert answered(other, b"still") == b"still"
