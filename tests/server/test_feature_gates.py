"""Feature gates that reach into the member's parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kvstore.lease.checkpoints import CHECKPOINT_INTERVAL_S
from kvstore.server import datadir
from kvstore.server.config import Config
from kvstore.server.features import DEFAULT_GATES, INERT, LEASE_CHECKPOINT
from kvstore.server.process import Server


@pytest.mark.parametrize("on", [True, False])
def test_leases_are_checkpointed_if_the_gate_is_on(tmp_path: Path, on: bool) -> None:
    """LSE-24: off by default, and no gate without effect any more."""
    gates = DEFAULT_GATES | {LEASE_CHECKPOINT} if on else DEFAULT_GATES
    config = Config(data_dir=str(tmp_path / "data"), feature_gates=gates)

    async def due() -> list[tuple[int, int]]:
        state = datadir.open_state(config)
        server = Server(config, state)
        server.lessor.promote(0.0, 1.0)
        server.lessor.grant(1, 1000, 0.0)
        found = server.lessor.checkpoints_due(CHECKPOINT_INTERVAL_S)
        server.wal_writer.close()
        state.wal.close()
        state.backend.close()
        return found

    assert asyncio.run(due()) == ([(1, 700)] if on else [])
    assert LEASE_CHECKPOINT not in INERT
