"""Maintenance.Downgrade: checks a target as etcd does; the rest is refused (MNT-31)."""

from __future__ import annotations

import re
from typing import Final

from kvstore.errors import (
    CLUSTER_VERSION_UNAVAILABLE,
    INVALID_DOWNGRADE_TARGET_VERSION,
    UNKNOWN_METHOD,
    WRONG_DOWNGRADE_VERSION_FORMAT,
    Code,
    EtcdError,
)
from kvstore.pb.rpc_pb2 import DowngradeRequest, DowngradeResponse
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call

_VERSION: Final = re.compile(
    r"(\d+)\.(\d+)(?:\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)?", re.ASCII
)

NOT_IMPLEMENTED: Final = EtcdError(
    Code.UNIMPLEMENTED, "etcdserver: a downgrade is not implemented in this server"
)


def minor_version(text: str) -> tuple[int, int]:
    """Return (major, minor) of ``x.y`` or ``x.y.z``, z and what follows it being of no account.

    Raises:
        EtcdError: WRONG_DOWNGRADE_VERSION_FORMAT.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        raise WRONG_DOWNGRADE_VERSION_FORMAT
    return int(found[1]), int(found[2])


def check_target(target: tuple[int, int], cluster_version: str) -> None:
    """Allow exactly one minor version below the cluster's.

    Raises:
        EtcdError: INVALID_DOWNGRADE_TARGET_VERSION.
    """
    major, minor = minor_version(cluster_version)
    if target != (major, minor - 1):
        raise INVALID_DOWNGRADE_TARGET_VERSION


class DowngradeService:
    """VALIDATE answers as etcd; ENABLE is refused once it is valid; CANCEL finds nothing to do."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def downgrade(self, call: Call, request: DowngradeRequest) -> bytes:
        """Answer with the cluster version as ``x.y`` (MNT-31).

        Raises:
            EtcdError: UNKNOWN_METHOD for an unknown action, NOT_IMPLEMENTED for ENABLE, what is
                wrong with the target, CLUSTER_VERSION_UNAVAILABLE while there is none.
        """
        if request.action == DowngradeRequest.CANCEL:
            return self._answer()
        if request.action not in (DowngradeRequest.VALIDATE, DowngradeRequest.ENABLE):
            raise UNKNOWN_METHOD
        target = minor_version(request.version)
        self._cluster_version()
        await self._core.fresh()
        check_target(target, self._cluster_version())
        if request.action == DowngradeRequest.ENABLE:
            raise NOT_IMPLEMENTED
        return self._answer()

    def _cluster_version(self) -> str:
        version = self._core.cluster.version
        if not version:
            raise CLUSTER_VERSION_UNAVAILABLE
        return version

    def _answer(self) -> bytes:
        major, minor = minor_version(self._cluster_version())
        response = DowngradeResponse(version=f"{major}.{minor}")
        return self._core.header(self._core.store.revision) + response.SerializeToString()
