"""Bugs of the list that no experiment here can show, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from jepsen.hunts.base import Ground, Hunt, Tries
from jepsen.hunts.processes import NotPossible


def _never(why: str) -> Callable[[Ground], Tries]:
    def drive(ground: Ground) -> Tries:
        raise NotPossible(why)
        yield ""  # what makes it a generator

    return drive


HUNTS: Final = (
    Hunt(
        "PR-20615",
        "no keep-alive succeeds for a lease that is revoked",
        _never(
            "such a keep-alive was sent before the revoke was answered, so that no client can tell"
            " it from one that came first; the moment between the two is a few instructions long,"
            " or a proposal where leases older than five minutes have checkpoints"
        ),
    ),
    Hunt(
        "17247",
        "no event comes twice",
        _never(
            "17247 was in no release, and PR 15274 mended etcd's Go client, which is not used here;"
            " what servers repeat is 15271"
        ),
    ),
)
