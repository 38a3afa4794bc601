"""What all tests share: the option for docs/conformance.md, and seeds simulated meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conformance import report

ROOT = Path(__file__).parents[1]
SEEDS = 200
"""Simulated seeds of an ordinary run of the tests, on all cores; more: ``make sim SEEDS=1000``."""


class Simulated(NamedTuple):
    """The simulation of `SEEDS` seeds, perhaps still under way."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait(self) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        return self.process.wait(), self.output.read_text()


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """Simulate many seeds with the time that others leave: chaos on real processes mostly waits."""
    output = tmp_path_factory.mktemp("sim") / "output"
    command = ("nice", "-n", "19", sys.executable, "-m", "jepsen", "sim", "--seeds", str(SEEDS))
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    yield Simulated(process, output)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
