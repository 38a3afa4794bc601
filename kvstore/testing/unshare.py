"""Namespaces of the kernel: a set for a whole run, and one network for each member.

All of them are anonymous: nothing stands in ``/run/netns``, so the kernel takes a namespace away
with the last process in it or the last descriptor of it. A run is the first process of a process
namespace, at whose end, even by SIGKILL, the kernel kills all others there; its mounts and
interfaces go with them. The trade-off: one more process, which waits outside and passes on signals.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final, NoReturn

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWPID: Final = 0x20000000
_CLONE_NEWNET: Final = 0x40000000
_MS_REC_PRIVATE: Final = 0x4000 | 1 << 18
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
_PR_SET_PDEATHSIG: Final = 1
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PROXIES: Final = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")

_libc: Final = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Go on in a child with network, process and mount namespaces of its own.

    Returns in the child alone; this process waits for it, passes signals on and ends with its exit
    code (128 and the signal's number, if one killed it). To be called before there are threads.
    Raises OSError without the privileges.
    """
    _unshare(_CLONE_NEWNET | _CLONE_NEWPID | _CLONE_NEWNS)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        _stand_for(child)
    # A process group of its own: Ctrl-C reaches it once, through the process that waits.
    os.setpgrp()
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _check(_libc.mount(None, b"/", None, _MS_REC_PRIVATE, None))
    _check(_libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID_NODEV_NOEXEC, None))
    for name in _PROXIES:  # nothing outside can be reached from here
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)


def _stand_for(child: int) -> NoReturn:
    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def new_network() -> int:
    """Return a descriptor of a new network namespace, which lives as long as somebody has it."""
    with ThreadPoolExecutor(1) as thread:  # namespaces of the network belong to threads
        return thread.submit(_new_network).result()


def _new_network() -> int:
    _unshare(_CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags))  # os.unshare comes with Python 3.12


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
