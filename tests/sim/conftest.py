"""The option that repeats one seed: ``python -m pytest tests/sim -k one_seed --sim-seed=17``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.test_requests import STORIES

SEEDS = 4
"""Seeds that are run one by one; `test_simulator` runs hundreds more on all cores."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sim-seed", type=int, default=None, help="run this seed alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sim_seed" in metafunc.fixturenames:
        only = metafunc.config.getoption("--sim-seed", default=None)
        seeds = range(SEEDS) if only is None else [only]
        metafunc.parametrize("sim_seed", seeds, ids=[f"seed-{seed}" for seed in seeds])


@pytest.fixture(autouse=True)
def ended_stories() -> Iterator[None]:
    """End the coroutines of a story's members with its test."""
    yield
    while STORIES:
        STORIES.pop().simulation.close()
