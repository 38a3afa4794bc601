"""What all tests share: the option that turns a run into docs/conformance.md."""

from __future__ import annotations

import pytest

from tests.conformance import report


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
    if config.getoption("--conformance"):
        config.pluginmanager.register(_Outcomes())
