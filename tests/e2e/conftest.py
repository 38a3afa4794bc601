"""Fixtures of the end-to-end tests: a three-node cluster for each module that only talks to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, reference_under_test


def progress_flag(interval: str) -> str:
    """The flag for periodic watch progress; etcd 3.5, the reference, has it as experimental."""
    prefix = "experimental-" if reference_under_test() else ""
    return f"--{prefix}watch-progress-notify-interval={interval}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members that stay up for a whole module; tests use keys of their own."""
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(3, folder, extra_flags=[progress_flag("300ms")]) as running:
        running.start_all()
        yield running


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Print the end of every member's log next to a failed test that used the shared cluster."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    shared = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(shared, Cluster):
        tails = "\n".join(f"--- {m.name}\n{m.log_tail()}" for m in shared.members)
        report.sections.append(("logs of the members", tails))
