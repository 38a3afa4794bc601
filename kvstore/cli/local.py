"""``kvstore local``: a whole cluster of real server processes on this machine, until Ctrl-C.

What lives here: which members there are, where they listen, and the order of things: check, start,
wait, show, stream, stop. The processes themselves are in `kvstore.cli.local_members`. Nothing is
restarted: who tries faults by hand wants to see them.

Ports: with the default base port and up to six members they are those of etcd's own example, 2379,
22379, 32379, 42379 ...; with another base port or more members, base, base + 10, base + 20 and so
on. The peer port is the client port plus 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from kvstore.cli.local_members import LocalMember, Printer, StartFailed

DEFAULT_SIZE: Final = 3
MAX_SIZE: Final = 9
"""More voters than this make no cluster better, and one machine slower."""
DEFAULT_BASE_PORT: Final = 2379
EXAMPLE_PORT_STEP: Final = 10_000
EXAMPLE_MAX_SIZE: Final = 6
PORT_STEP: Final = 10
MAX_PORT: Final = 65_535
DEFAULT_DATA_DIR: Final = Path(".kvstore") / "local"
SHAPE_FILE: Final = "local.json"
"""In the data directory: the size and base port it was made with."""
START_TIMEOUT_S: Final = 60.0
"""Longest wait for a cluster that serves; generous, since a restart may replay a long log."""
HOST: Final = "127.0.0.1"


class LocalError(Exception):
    """The cluster cannot be started; the text says which option or port is to blame."""


def client_ports(size: int, base_port: int) -> list[int]:
    """Return the members' client ports (see the module's docstring for the rule).

    Raises:
        LocalError: a port would be above 65535.
    """
    if base_port == DEFAULT_BASE_PORT and size <= EXAMPLE_MAX_SIZE:
        return [base_port, *(base_port + EXAMPLE_PORT_STEP * i for i in range(2, size + 1))]
    ports = [base_port + PORT_STEP * i for i in range(size)]
    if ports[-1] + 1 > MAX_PORT:
        raise LocalError(
            f"--base-port {base_port}: {size} members need ports up to {ports[-1] + 1}, "
            f"above {MAX_PORT}"
        )
    return ports


def plan_members(size: int, base_port: int, data_dir: Path) -> list[LocalMember]:
    """Return the members ``infra1`` ... with their ports and directories; nothing is started."""
    ports = client_ports(size, base_port)
    names = [f"infra{i}" for i in range(1, size + 1)]
    cluster = ",".join(
        f"{name}=http://{HOST}:{port + 1}" for name, port in zip(names, ports, strict=True)
    )
    return [
        LocalMember(
            name=name,
            client_port=port,
            peer_port=port + 1,
            data_dir=data_dir / f"{name}.etcd",
            initial_cluster=cluster,
        )
        for name, port in zip(names, ports, strict=True)
    ]


def check_ports(members: Sequence[LocalMember]) -> None:
    """Raise `LocalError` naming every port that cannot be listened on."""
    problems = []
    for member in members:
        for port, use in ((member.client_port, "client"), (member.peer_port, "peer")):
            try:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((HOST, port))
                    probe.listen()
            except OSError as error:
                problems.append(f"port {port} ({use} port of {member.name}): {error.strerror}")
    if problems:
        raise LocalError(
            f"{'; '.join(problems)}. Stop what listens there on {HOST}, or choose another "
            f"--base-port"
        )


def claim_data_dir(data_dir: Path, size: int, base_port: int) -> bool:
    """Make the directory, or check that it holds a cluster of this shape; return whether it does.

    The members' addresses are in their data, so another size or port would leave them waiting for
    each other for ever.

    Raises:
        LocalError: it cannot be written or belongs to a cluster of another shape.
    """
    path, shape = data_dir / SHAPE_FILE, {"size": size, "base_port": base_port}
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps(shape) + "\n")
            return False
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LocalError(f"--data-dir {data_dir}: {error}") from error
    if found != shape:
        options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in found.items())
        raise LocalError(
            f"--data-dir {data_dir} holds a cluster made with {options}: use the same options, "
            f"another --data-dir, or remove it"
        )
    return True


def _table(members: Sequence[LocalMember], roles: Sequence[str]) -> str:
    rows = [("NAME", "CLIENT URL", "PEER URL", "PID", "ROLE")]
    rows += [
        (m.name, m.client_url, m.peer_url, str(m.pid), role)
        for m, role in zip(members, roles, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _hello(members: Sequence[LocalMember]) -> str:
    endpoints = ",".join(f"{HOST}:{member.client_port}" for member in members)
    return f"etcdctl --endpoints={endpoints} put greeting hello"


async def _run(members: Sequence[LocalMember], printer: Printer) -> int:
    """Start the members, show them, and stream their logs until a signal or their end."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    stopped = asyncio.ensure_future(stop.wait())
    exits: list[asyncio.Task[int]] = []
    try:
        exits += [await member.start(printer, stop) for member in members]
        serving = asyncio.ensure_future(_wait_serving(members))
        first: set[asyncio.Future[Any]] = {serving, stopped, *exits}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            serving.cancel()
            return 0
        if not serving.done():
            serving.cancel()
            raise StartFailed("a member ended before the cluster served")
        printer.write(f"\n{_table(members, serving.result())}\n")
        printer.write(f"\nThe cluster serves. Ctrl-C stops it. Try:\n\n  {_hello(members)}\n\n")
        everyone = asyncio.ensure_future(asyncio.wait(exits))
        await asyncio.wait({everyone, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            return 0
        raise StartFailed("no member is left")
    except StartFailed as error:
        sys.stderr.write(f"kvstore local: {error}\n")
        return 1
    finally:
        stop.set()
        stopped.cancel()
        printer.write("stopping\n")
        await asyncio.gather(*(member.stop(hurry) for member in members))


async def _wait_serving(members: Sequence[LocalMember]) -> list[str]:
    """Wait until every member is healthy and one leads; return the roles."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await asyncio.gather(*(member.wait_healthy() for member in members))
            while True:
                roles = await asyncio.gather(*(member.role() for member in members))
                if roles.count("leader") == 1:
                    return roles
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StartFailed(f"the cluster does not serve after {START_TIMEOUT_S:.0f} s") from None


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kvstore local",
        description="Run a cluster of real server processes on 127.0.0.1 until Ctrl-C.",
        epilog="With the default base port, clients find members at 2379, 22379, 32379 ... as in "
        "etcd's own example; with another, at base, base+10, base+20 ... Peers use the next port.",
    )
    parser.add_argument(
        "--size", type=int, default=DEFAULT_SIZE, help=f"members, 1 to {MAX_SIZE} (%(default)s)"
    )
    parser.add_argument(
        "--base-port",
        type=int,
        default=DEFAULT_BASE_PORT,
        help="client port of the first member (%(default)s)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--data-dir",
        type=Path,
        default=DEFAULT_DATA_DIR,
        help="kept, and continued by the next run (%(default)s)",
    )
    where.add_argument(
        "--ephemeral", action="store_true", help="keep the data in a directory removed at the end"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.size <= MAX_SIZE:
        parser.error(f"--size must be 1 to {MAX_SIZE} (set to {options.size})")
    if not 1 <= options.base_port <= MAX_PORT - 1:
        parser.error(f"--base-port must be 1 to {MAX_PORT - 1} (set to {options.base_port})")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run ``kvstore local`` with ``arguments``; return the exit code."""
    options = _arguments(arguments)
    data_dir = Path(tempfile.mkdtemp(prefix="kvstore-")) if options.ephemeral else options.data_dir
    try:
        members = plan_members(options.size, options.base_port, data_dir)
        check_ports(members)
        continued = claim_data_dir(data_dir, options.size, options.base_port)
        width = max(len(member.name) for member in members)
        printer = Printer(sys.stdout, width, os.environ)
        verb = "continuing" if continued else "starting"
        printer.write(f"{verb} {options.size} members, data in {data_dir}\n")
        return asyncio.run(_run(members, printer))
    except LocalError as error:
        sys.stderr.write(f"kvstore local: {error}\n")
        return 1
    finally:
        if options.ephemeral:
            shutil.rmtree(data_dir, ignore_errors=True)
