"""``--memory-mlock``: keep what this process has touched in RAM.

Pages are locked when they are first touched, not at once: the backend's map is 64 GiB of address
space, most of it without a page behind it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
"""Values of Linux on all architectures that Python has wheels for here."""


class MlockFailed(OSError):
    """The kernel does not let this process lock its memory; the text says what to do."""


def lock_memory() -> None:
    """Lock all memory, present and future. Raises `MlockFailed`."""
    if sys.platform != "linux":
        raise MlockFailed("--memory-mlock: not supported on this system")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        reason = os.strerror(ctypes.get_errno())
        raise MlockFailed(
            f"--memory-mlock: mlockall: {reason}: raise the limit of locked memory"
            " (RLIMIT_MEMLOCK, LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK"
        )
