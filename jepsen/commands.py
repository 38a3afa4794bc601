"""Commands of this project that it runs as processes of their own, and how they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Final

END_S: Final = 30.0
"""So long an interrupted command may clear its members, mounts and proxies away."""


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command if it still runs, and kill what is left of its process group then: it
    must have been started with ``process_group=0`` or ``start_new_session=True``."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
