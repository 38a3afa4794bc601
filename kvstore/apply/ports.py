"""What applying requests needs from its neighbours, as Protocols."""

from __future__ import annotations

from typing import Protocol


class Lessor(Protocol):
    """The leases, as far as writes touch them."""

    def exists(self, lease_id: int, /) -> bool:
        """Tell whether the lease is granted and not revoked."""

    def attach(self, lease_id: int, key: bytes, /) -> None:
        """Hang `key` on an existing lease, taking it off any other (PUT-06)."""

    def detach(self, key: bytes, /) -> None:
        """Take `key` off its lease; nothing happens if it has none (DEL-05)."""
