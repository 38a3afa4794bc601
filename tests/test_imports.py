"""The shape of the code: import direction, effects only at the edge, generated code up to date.

The lists below are meant to be edited: who needs an effect in a new module adds a line here, and
the change then shows in review what has become part of the edge.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kvstore", "raft")
GENERATED = "kvstore/pb/"

EFFECTS = frozenset(
    {
        # time
        "time", "datetime", "sched", "zoneinfo",
        # randomness
        "random", "secrets", "uuid",
        # sockets
        "socket", "select", "selectors", "socketserver", "ssl", "http", "urllib.request", "grpc",
        "h2corn",
        # concurrency
        "asyncio", "threading", "concurrent", "multiprocessing", "signal", "subprocess",
        # files
        "os", "io", "pathlib", "tempfile", "shutil", "fcntl", "mmap", "lmdb", "open()",
    }
)  # fmt: skip
"""Modules (with their submodules) and built-in functions through which the outside is reached."""

EDGE: dict[str, frozenset[str]] = {
    "kvstore/cli/": EFFECTS,
    "kvstore/server/": EFFECTS,
    "kvstore/gateway/app.py": frozenset({"asyncio"}),
    "kvstore/gateway/streams.py": frozenset({"asyncio"}),
    "kvstore/gateway/vanished.py": frozenset({"asyncio", "os", "select", "socket"}),
    "kvstore/gateway/websocket.py": frozenset({"asyncio"}),
    "kvstore/peer/probe.py": frozenset({"asyncio"}),
    "kvstore/peer/snapshots.py": frozenset({"asyncio", "os", "pathlib", "open()"}),
    "kvstore/peer/streams.py": frozenset({"asyncio"}),
    "kvstore/peer/transport.py": frozenset({"asyncio", "pathlib", "socket"}),
    "kvstore/rpc/core.py": frozenset({"asyncio", "random", "time"}),
    "kvstore/rpc/grpc.py": frozenset({"asyncio", "time"}),
    "kvstore/rpc/health.py": frozenset({"asyncio"}),
    "kvstore/rpc/kv.py": frozenset({"asyncio", "time"}),
    "kvstore/rpc/lease.py": frozenset({"asyncio"}),
    "kvstore/rpc/listener.py": frozenset({"asyncio", "h2corn", "socket"}),
    "kvstore/rpc/maintenance.py": frozenset({"asyncio", "time"}),
    "kvstore/rpc/peer_calls.py": frozenset({"asyncio"}),
    "kvstore/rpc/range_stream.py": frozenset({"asyncio"}),
    "kvstore/rpc/snapshot.py": frozenset({"asyncio"}),
    "kvstore/rpc/stalls.py": frozenset({"asyncio"}),
    "kvstore/rpc/waiting.py": frozenset({"asyncio"}),
    "kvstore/rpc/watch.py": frozenset({"asyncio"}),
    "kvstore/testing/": EFFECTS,
    "kvstore/snapshot/convert.py": frozenset({"os", "open()"}),
    "kvstore/snapshot/file.py": frozenset({"mmap", "os", "open()"}),
    "kvstore/sockets.py": frozenset({"os", "socket"}),
    "kvstore/storage/durable.py": frozenset({"fcntl", "os"}),
    "kvstore/storage/lmdb_backend.py": frozenset({"lmdb", "os", "open()"}),
    "kvstore/storage/lmdb_file.py": frozenset({"lmdb"}),
    "kvstore/storage/lmdb_copy.py": frozenset({"lmdb", "os"}),
    "kvstore/storage/snapshot_file.py": frozenset({"os"}),
    "kvstore/storage/wal.py": frozenset({"fcntl", "os", "time", "open()"}),
    "kvstore/storage/wal_writer.py": frozenset({"threading"}),
}
"""Which module (or folder) may reach the outside, and through what. All others: not at all."""


def sources() -> list[str]:
    """Paths of all modules written by hand, relative to the repository."""
    found = (
        path.relative_to(ROOT).as_posix() for p in PACKAGES for path in (ROOT / p).rglob("*.py")
    )
    return sorted(path for path in found if not path.startswith(GENERATED))


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from running_nodes(node)


def imported(tree: ast.AST) -> set[str]:
    """Full names of the modules that a module imports, ``open()`` if it calls that."""
    names: set[str] = set()
    for node in running_nodes(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "open":
            names.add("open()")
    return names


def effects(names: set[str]) -> set[str]:
    """Which of `EFFECTS` the imported names are or lie in."""
    return {e for e in EFFECTS for name in names if name == e or name.startswith(e + ".")}


def allowed(path: str) -> frozenset[str]:
    """What the list above grants a module."""
    granted = (e for place, e in EDGE.items() if path == place or path.startswith(place))
    return frozenset[str]().union(*granted)


@pytest.mark.parametrize("path", sources())
def test_a_module_reaches_the_outside_only_as_listed(path: str) -> None:
    """JEP-14: leases and time-outs know no clock but the monotonic time they are given."""
    found = effects(imported(ast.parse((ROOT / path).read_text())))
    assert found <= allowed(path), f"{path}: {sorted(found - allowed(path))} (see EDGE)"


def test_everything_listed_exists() -> None:
    missing = [place for place in EDGE if not (ROOT / place).exists()]
    assert missing == []


@pytest.mark.parametrize("path", [path for path in sources() if path.startswith("raft/")])
def test_raft_imports_only_the_standard_library_and_itself(path: str) -> None:
    names = imported(ast.parse((ROOT / path).read_text())) - {"open()"}
    tops = {name.partition(".")[0] for name in names}
    assert tops <= sys.stdlib_module_names | {"raft"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os.path", {"os"}),
        ("from concurrent.futures import Future", {"concurrent"}),
        ("from urllib import request", {"urllib.request"}),
        ("from urllib.parse import urlsplit", set()),
        ("def f():\n    import time", {"time"}),
        ("open('x')", {"open()"}),
        ("if TYPE_CHECKING:\n    from random import Random", set()),
        ("import timeit, randomness", set()),
    ],
)
def test_the_search_itself_finds_what_it_should(source: str, found: set[str]) -> None:
    assert effects(imported(ast.parse(source))) == found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_imports_go_one_way() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = run(str(linter), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_code_is_up_to_date() -> None:
    done = run(sys.executable, "proto/generate.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
