"""Options of the raft tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-scripts",
        action="store_true",
        help="write what raft's interaction scripts print into them (review the diff)",
    )
