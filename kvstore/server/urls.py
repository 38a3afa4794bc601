"""Which URLs lead to one address; their syntax is in `kvstore.membership.urls`."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from kvstore.membership.urls import is_unix, split_host_port


def same_addresses(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether each URL of one list leads where one of the other does, both ways."""
    one, two = tuple(some), tuple(others)
    return all(any(same_address(a, b) for b in two) for a in one) and all(
        any(same_address(a, b) for a in one) for b in two
    )


def same_address(one: str, other: str) -> bool:
    """Whether two URLs have one scheme and lead to one address; names are looked up if they differ.

    Blocks for as long as the resolver takes; a name that cannot be resolved equals only itself.
    """
    if one == other:
        return True
    if one.partition("://")[0] != other.partition("://")[0] or is_unix(one):
        return False
    return not _addresses(one).isdisjoint(_addresses(other))


def _addresses(url: str) -> set[tuple[str, int]]:
    host, port = split_host_port(url)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {(str(address[0]), port) for *_, address in found}
