"""The cluster that the clients talk to is the one of the end-to-end tests."""

from tests.e2e.conftest import cluster

__all__ = ["cluster"]
