"""Installs what tests need and is no Python package: clients, and ``nft`` where there is none.

    python tests/clients/install.py        (``make tools`` does it)

Debian's etcd and etcdctl 3.4 and its nftables are unpacked, not installed; npm's client ``etcd3``
goes to a folder of its own. All end up below ``<venv>/clients``. What cannot be had here is said in
one line, and its tests skip with the same reason; that is no failure.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

FOLDER = Path(sys.prefix) / "clients"
ETCDCTL_34 = FOLDER / "etcd-client" / "usr" / "bin" / "etcdctl"
ETCD_34 = FOLDER / "etcd-server" / "usr" / "bin" / "etcd"
NFT = FOLDER / "nftables" / "nft"
"""For `tests/testing` and `tests/jepsen`, where this machine has no ``nft``."""
NFT_PACKAGES = (
    *("nftables", "libnftables1", "libedit2", "libbsd0", "libmd0", "libtinfo6", "libgmp10"),
    *("libjansson4", "libmnl0", "libnftnl11", "libxtables12"),
)
NODE_MODULES = FOLDER / "node" / "node_modules"
NODE_CLIENT = "etcd3@1.1.2"
TIME_LIMIT_S = 300


class Missing(Exception):
    """Something that the installation needs is not on this machine."""


def _run(*command: str, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise Missing(f"there is no {command[0]}")
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "?").splitlines()[-1]
        raise Missing(f"{command[0]} failed: {last}")


def _debian(target: str, *packages: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt fetches as a user of its own
        try:
            _run("apt-get", "download", *packages, folder=folder)
        except Missing:
            _run("apt-get", "update", "-qq", folder=folder)  # no package lists yet
            _run("apt-get", "download", *packages, folder=folder)
        for file in folder.glob("*.deb"):
            _run("dpkg-deb", "-x", str(file), str(FOLDER / target), folder=folder)


def _nft() -> None:
    _debian("nftables", *NFT_PACKAGES)
    (program,) = NFT.parent.glob("usr/sbin/nft")
    libraries = ":".join(sorted({str(path.parent) for path in NFT.parent.rglob("*.so.*")}))
    NFT.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {program} "$@"\n')
    NFT.chmod(0o755)


def _node_client() -> None:
    if shutil.which("node") is None:
        raise Missing("there is no node")
    folder = NODE_MODULES.parent
    folder.mkdir(parents=True, exist_ok=True)
    _run("npm", "install", "--silent", "--no-audit", "--no-fund", NODE_CLIENT, folder=folder)


def main() -> int:
    """Install what is missing and can be had; always succeeds."""
    FOLDER.mkdir(exist_ok=True)
    wanted: list[tuple[str, Path, Callable[[], None]]] = [
        ("etcdctl 3.4 from Debian", ETCDCTL_34, partial(_debian, "etcd-client", "etcd-client")),
        ("etcd 3.4 from Debian", ETCD_34, partial(_debian, "etcd-server", "etcd-server")),
        ("the node client etcd3 from npm", NODE_MODULES / "etcd3", _node_client),
    ]
    if shutil.which("nft") is None:
        wanted.append(("nft from Debian", NFT, _nft))
    for what, path, install in wanted:
        if path.exists():
            continue
        try:
            install()
        except (Missing, subprocess.TimeoutExpired) as error:
            print(f"not installed, its tests will be skipped: {what} ({error})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
