"""The versions that this server tells: the etcd release it announces and its own.

Clients switch features by the announced version: a plain ``x.y.z`` (KUB-27, OTH-20), never with a
suffix. It says which API is spoken, not which code runs; that is `own_version`.
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

VERSION: Final = "3.6.8"
"""The etcd release announced by Status and ``/version``."""
CLUSTER_VERSION: Final = "3.6.0"
"""The cluster version announced: `VERSION` with patch 0."""
STORAGE_VERSION: Final = "3.6.0"
"""The storage version announced: `VERSION` with patch 0."""

DISTRIBUTION: Final = "kvstore"

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}


def own_version() -> str:
    """Return the version of the installed distribution, ``unknown`` in a tree not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def versions(cluster_version: str) -> dict[str, str]:
    """Return what ``/version`` tells (HTP-06), in etcd's order.

    Args:
        cluster_version: "" while the leader has not set it.
    """
    return {
        "etcdserver": VERSION,
        "etcdcluster": cluster_version or "not_decided",
        "storage": STORAGE_VERSION,
    }


def version_lines() -> str:
    """Return what ``--version`` prints; as in etcd, the first line is ``etcd Version: x.y.z``."""
    machine = platform.machine()
    architecture = _ARCHITECTURES.get(machine, machine)
    return (
        f"etcd Version: {VERSION}\n"
        f"kvstore Version: {own_version()}\n"
        f"Python Version: {platform.python_version()}\n"
        f"Python OS/Arch: {platform.system().lower()}/{architecture}\n"
    )
