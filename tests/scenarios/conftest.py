"""The clusters that the scenarios with processes share: each is as it was when a test is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jepsen.hunts.processes import Processes
from tests.sim.test_requests import STORIES


@pytest.fixture(scope="session")
def started_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(3, tmp_path_factory.mktemp("three")) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture
def three(started_three: Processes) -> Iterator[Processes]:
    """Three members behind links; tests use keys of their own and heal what they break."""
    yield started_three
    started_three.heal()
    for number, member in enumerate(started_three.members):
        if member.running:
            started_three.resume(number)
    started_three.start()


@pytest.fixture(scope="session")
def started_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(1, tmp_path_factory.mktemp("one"), links=False) as cluster:
        yield cluster


@pytest.fixture
def one(started_one: Processes) -> Processes:
    """A lone member."""
    started_one.start()
    return started_one


@pytest.fixture(autouse=True)
def ended_stories() -> Iterator[None]:
    """End the coroutines of a story's members with its test."""
    yield
    while STORIES:
        STORIES.pop().simulation.close()
