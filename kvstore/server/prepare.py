"""What flags ask to be done between opening the data directory and serving it."""

from __future__ import annotations

import logging
from typing import Final

from kvstore.server.config import Config, ConfigError, DiscoveryFailed
from kvstore.server.datadir import DataDirError, State, has_data
from kvstore.server.force_new_cluster import stand_alone
from kvstore.server.join import JoinError
from kvstore.server.memory import MlockFailed, lock_memory
from kvstore.storage.errors import CopyFailed, StorageError
from kvstore.storage.lmdb_backend import LmdbBackend

log = logging.getLogger("server")

MEGABYTE: Final = 1024 * 1024


REFUSALS: Final = (
    *(DataDirError, StorageError, ConfigError, JoinError, MlockFailed, DiscoveryFailed),
)
"""What ends the start with a text that says why."""


def find_cluster(config: Config) -> Config:
    """Return the configuration with the cluster that discovery has found, if it is needed.

    Raises DiscoveryFailed, ConfigError.
    """
    if has_data(config):
        log.warning("discovery token is ignored since cluster already initialized")
        return config
    # Late, so that a server that needs no discovery starts without grpcio.
    from kvstore.server.discovery import discover

    return discover(config)


def prepare(config: Config, state: State) -> State:
    """Do it; return the state to start from.

    Raises StorageError, MlockFailed.
    """
    if config.force_new_cluster and not state.fresh:
        state = stand_alone(state)
    if config.bootstrap_defrag_megabytes:
        _defragment(state.backend, config.bootstrap_defrag_megabytes * MEGABYTE)
    if config.memory_mlock:
        lock_memory()
    return state


def _defragment(backend: LmdbBackend, threshold: int) -> None:
    """Pack the backend if that frees `threshold` bytes; without room to do so it stays as it is."""
    size, used = backend.size(), backend.size_in_use()
    fields = {"size": size, "size-in-use": used, "threshold": threshold}
    if size - used < threshold:
        log.info("skipping defragmentation", extra=fields)
        return
    try:
        backend.pack()
    except CopyFailed as error:
        log.warning("failed to defragment: %s", error)
        return
    backend.switch()()
    log.info("defragmented", extra={**fields, "size": backend.size(), "size-before": size})
