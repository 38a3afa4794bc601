"""What all tests share: docs/conformance.md, the order of tests, and what runs beside them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jepsen.commands import end
from tests.conformance import report

ROOT = Path(__file__).parents[1]
SEEDS = 200
"""Simulated seeds of an ordinary run of the tests, on all cores; more: ``make sim SEEDS=1000``."""


COMPUTING = (
    "apply", "bbolt", "cli", "gateway", "lease", "membership", "mvcc", "node", "peer", "raft",
    "rpc", "server", "sim", "snapshot", "storage",
)  # fmt: skip
"""Folders whose tests mostly compute: the mix, which mostly waits, runs beside them."""
WAIT_S = 1200.0
"""After which a command in the background hangs; it takes 5 minutes."""


class Background(NamedTuple):
    """A command that runs beside the tests, perhaps still, in a process group of its own."""

    process: subprocess.Popen[bytes]
    directory: Path

    def wait(self) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        return self.process.wait(WAIT_S), (self.directory / "output").read_text()


@contextlib.contextmanager
def _background(directory: Path, *command: str) -> Iterator[Background]:
    with (directory / "output").open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Background(process, directory)
    finally:
        end(process)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    """Simulate many seeds with the time that others leave."""
    python = ("nice", "-n", "19", sys.executable)
    directory = tmp_path_factory.mktemp("sim")
    with _background(directory, *python, "-m", "jepsen", "sim", f"--seeds={SEEDS}") as running:
        yield running


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    """Chaos of all kinds for minutes, which mostly waits."""
    directory = tmp_path_factory.mktemp("mix")
    with _background(
        directory, sys.executable, "-m", "tests.jepsen.mix", str(directory)
    ) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def begun_early(request: pytest.FixtureRequest) -> None:
    """Begin what runs in the background with the first test, if a chosen test needs it."""
    needed = {name for item in request.session.items for name in _fixtures(item)}
    for name in ("mixed", "simulated"):
        if name in needed:
            request.getfixturevalue(name)


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what computes, then what has run beside it, then the rest, each in the old order."""
    tests = ROOT / "tests"

    def order(item: pytest.Item) -> int:
        if "mixed" in _fixtures(item):
            return 1
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        return 0 if folder in COMPUTING else 2

    items.sort(key=order)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--conformance", action="store_true", help="write docs/conformance.md from this run"
    )


class _Outcomes:
    """Collects how each test ended; of a parametrized one the worst counts."""

    _ORDER = ("passed", "skipped", "failed")

    def __init__(self) -> None:
        self._ended: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        test = report.nodeid.partition("[")[0]
        worst = max(self._ended.get(test, "passed"), report.outcome, key=self._ORDER.index)
        self._ended[test] = worst

    def pytest_sessionfinish(self) -> None:
        report.DOCUMENT.write_text(report.render(self._ended))


def pytest_configure(config: pytest.Config) -> None:
    # Started in the background by a shell they ignore Ctrl-C, and so would all that they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--conformance"):
        config.pluginmanager.register(_Outcomes())
