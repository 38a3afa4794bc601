"""The Auth service of a server without authentication: it is off, and says so.

What holds without users and roles is answered as etcd answers it while auth is off; all else is
refused as not implemented, so that nobody takes a server for protected that is not.
"""

from __future__ import annotations

from typing import Final

from kvstore.errors import AUTH_NOT_ENABLED, Code, EtcdError
from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call

INITIAL_AUTH_REVISION: Final = 1
"""The revision of the auth store of a new cluster."""

UNSERVED: Final = (
    *("AuthEnable", "UserAdd", "UserGet", "UserList", "UserDelete", "UserChangePassword"),
    *("UserGrantRole", "UserRevokeRole", "RoleAdd", "RoleGet", "RoleList", "RoleDelete"),
    *("RoleGrantPermission", "RoleRevokePermission"),
)
"""The RPCs that need users and roles."""


class AuthService:
    """AuthStatus, AuthDisable, Authenticate; the rest by `unserved`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def status(self, call: Call, request: rpc_pb2.AuthStatusRequest) -> bytes:
        response = rpc_pb2.AuthStatusResponse(authRevision=INITIAL_AUTH_REVISION)
        return self._header() + response.SerializeToString()

    def disable(self, call: Call, request: rpc_pb2.AuthDisableRequest) -> bytes:
        """Succeed without an effect: auth is off."""
        return self._header()

    def authenticate(self, call: Call, request: rpc_pb2.AuthenticateRequest) -> bytes:
        """Tell the client to go on without a token (AUT-03)."""
        raise AUTH_NOT_ENABLED

    def unserved(self, call: Call, request: object) -> bytes:
        name = call.path.rpartition("/")[2]
        text = f"{name}: authentication is not implemented yet in this server"
        raise EtcdError(Code.UNIMPLEMENTED, text)

    def _header(self) -> bytes:
        return self._core.header(self._core.store.revision)
