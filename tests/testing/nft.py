"""Where ``nft`` is: on this machine, or unpacked by `tests.clients.install`."""

from __future__ import annotations

import os
import shutil

from kvstore.testing.namespaces import missing
from tests.clients.install import NFT


def why_not() -> str:
    """Why there can be no network of the kernel's here, "" if there can; may add to PATH."""
    if shutil.which("nft") is None and NFT.exists():
        os.environ["PATH"] += os.pathsep + str(NFT.parent)
    return missing()
