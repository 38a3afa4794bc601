"""The server processes of ``kvstore local``: start, ask, read their logs, stop.

A member runs in a process group of its own, so that Ctrl-C reaches only `kvstore.cli.local`, which
then stops the members in order. If that process is killed outright, the members run on; their pids
are in its table, and the next start names their ports as taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

import grpc.aio

from kvstore.pb import rpc_pb2

STOP_TIMEOUT_S: Final = 10.0
"""What a member gets between SIGTERM and SIGKILL."""
MAX_LOG_LINE_BYTES: Final = 2**20
"""A longer log line is dropped, with a note."""
POLL_S: Final = 0.05
HTTP_TIMEOUT_S: Final = 2.0

_COLOURS: Final = ("36", "33", "35", "32", "34", "31", "96", "93", "95")
_STATUS: Final = "/etcdserverpb.Maintenance/Status"


class StartFailed(Exception):
    """The cluster did not come up, or is gone; the text says why."""


class Printer:
    """Writes whole lines of several members to one stream, each behind its member's name.

    Colours are used on a terminal or when ``FORCE_COLOR`` is set, never when ``NO_COLOR`` is.
    """

    def __init__(self, out: TextIO, width: int, environment: Mapping[str, str]) -> None:
        self._out = out
        self._width = width
        forced = bool(environment.get("FORCE_COLOR"))
        self._coloured = (forced or out.isatty()) and not environment.get("NO_COLOR")
        self._seen: dict[str, str] = {}

    def line(self, name: str, text: str) -> None:
        """Write one line of member ``name``."""
        colour = self._seen.setdefault(name, _COLOURS[len(self._seen) % len(_COLOURS)])
        prefix = f"{name.ljust(self._width)} |"
        if self._coloured:
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        self.write(f"{prefix} {text}\n")

    def write(self, text: str) -> None:
        """Write ``text`` as it is; a reader that went away is no reason to fail."""
        with contextlib.suppress(BrokenPipeError):
            self._out.write(text)
            self._out.flush()


@dataclass(slots=True)
class LocalMember:
    """One member: where it listens, and its process once it was started."""

    name: str
    client_port: int
    peer_port: int
    data_dir: Path
    initial_cluster: str
    _process: Process | None = None
    _ended: asyncio.Task[int] | None = field(default=None, repr=False)

    @property
    def client_url(self) -> str:
        return f"http://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self._process.pid if self._process else 0

    def command(self) -> list[str]:
        """Return the command line of the member, in etcd's own flags."""
        return [
            sys.executable,
            "-m",
            "kvstore",
            "server",
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.client_url}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.initial_cluster}",
            "--initial-cluster-state=new",
            "--initial-cluster-token=kvstore-local",
            "--log-format=console",
            "--log-outputs=stderr",
        ]

    async def start(self, printer: Printer, stopping: asyncio.Event) -> asyncio.Task[int]:
        """Start the process; return the task that ends with it, when its log was printed too."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=MAX_LOG_LINE_BYTES,
            process_group=0,
        )
        self._ended = asyncio.create_task(self._follow(self._process, printer, stopping))
        return self._ended

    async def _follow(self, process: Process, printer: Printer, stopping: asyncio.Event) -> int:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                printer.line(self.name, f"(a log line over {MAX_LOG_LINE_BYTES} bytes was dropped)")
                continue
            if not line:
                break
            printer.line(self.name, line.decode(errors="replace").rstrip("\n"))
        code = await process.wait()
        if not stopping.is_set():
            printer.line(self.name, f"*** {self.name} (pid {process.pid}) ended: {_how(code)}")
        return code

    async def wait_healthy(self) -> None:
        """Wait until ``/health`` says that this member answers reads."""
        while not await asyncio.to_thread(self._healthy):
            await asyncio.sleep(POLL_S)

    def _healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.client_url}/health", timeout=HTTP_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    async def role(self) -> str:
        """Ask the member for its status; return leader, follower, learner or ``no leader``."""
        options = [("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.client_port}", options) as channel:
            call = channel.unary_unary(
                _STATUS,
                request_serializer=rpc_pb2.StatusRequest.SerializeToString,
                response_deserializer=rpc_pb2.StatusResponse.FromString,
            )
            try:
                status = await call(rpc_pb2.StatusRequest(), timeout=HTTP_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                return "no answer"
        if status.leader == 0:
            return "no leader"
        if status.isLearner:
            return "learner"
        return "leader" if status.leader == status.header.member_id else "follower"

    async def stop(self, hurry: asyncio.Event) -> None:
        """End the process: SIGTERM, and SIGKILL after `STOP_TIMEOUT_S` or when ``hurry`` is set."""
        process, ended = self._process, self._ended
        if process is None or ended is None:
            return
        if not ended.done():
            _signal(process, signal.SIGTERM)
            hurried = asyncio.ensure_future(hurry.wait())
            await asyncio.wait(
                {ended, hurried}, timeout=STOP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            hurried.cancel()
        if not ended.done():
            _signal(process, signal.SIGKILL)
        await ended


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
