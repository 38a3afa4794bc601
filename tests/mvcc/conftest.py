"""Fixtures: a fresh member, once on each backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mvcc.kv_member import KvMember, lmdb_member, memory_member


@pytest.fixture(params=["memory", "lmdb"])
def member(request: pytest.FixtureRequest, tmp_path: Path) -> KvMember:
    return memory_member() if request.param == "memory" else lmdb_member(tmp_path)
