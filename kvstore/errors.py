"""The errors that clients see: etcd's texts and gRPC codes, byte for byte.

Go clients recognise an error by its exact text and code (GEN-07), so every error of the catalogue
is one constant here and nothing else in the project spells such a text. Names follow etcd's.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EtcdError(Exception):
    """An error that travels to the client as a gRPC status.

    Attributes:
        code: the gRPC status code *on the wire*.
        message: the status message, exactly as a client sees it.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _etcd(code: Code, text: str) -> EtcdError:
    return EtcdError(code, "etcdserver: " + text)


_INVALID, _FAILED = Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION
_RANGE, _UNAVAILABLE = Code.OUT_OF_RANGE, Code.UNAVAILABLE

EMPTY_KEY = _etcd(_INVALID, "key is not provided")
KEY_NOT_FOUND = _etcd(_INVALID, "key not found")
VALUE_PROVIDED = _etcd(_INVALID, "value is provided")
LEASE_PROVIDED = _etcd(_INVALID, "lease is provided")
TOO_MANY_OPS = _etcd(_INVALID, "too many operations in txn request")
DUPLICATE_KEY = _etcd(_INVALID, "duplicate key given in txn request")
INVALID_CLIENT_API_VERSION = _etcd(_INVALID, "invalid client api version")
INVALID_SORT_OPTION = _etcd(_INVALID, "invalid sort option")
COMPACTED = _etcd(_RANGE, "mvcc: required revision has been compacted")
FUTURE_REV = _etcd(_RANGE, "mvcc: required revision is a future revision")
NO_SPACE = _etcd(Code.RESOURCE_EXHAUSTED, "mvcc: database space exceeded")
LEASE_NOT_FOUND = _etcd(Code.NOT_FOUND, "requested lease not found")
LEASE_EXIST = _etcd(_FAILED, "lease already exists")
LEASE_TTL_TOO_LARGE = _etcd(_RANGE, "too large lease TTL")
WATCH_CANCELED = _etcd(Code.CANCELLED, "watch canceled")
MEMBER_EXIST = _etcd(_FAILED, "member ID already exist")
PEER_URL_EXIST = _etcd(_FAILED, "Peer URLs already exists")
MEMBER_NOT_ENOUGH_STARTED = _etcd(
    Code.UNKNOWN, "re-configuration failed due to not enough started members"
)
MEMBER_BAD_URLS = _etcd(_INVALID, "given member URLs are invalid")
MEMBER_NOT_FOUND = _etcd(Code.NOT_FOUND, "member not found")
MEMBER_NOT_LEARNER = _etcd(_FAILED, "can only promote a learner member")
LEARNER_NOT_READY = _etcd(_FAILED, "can only promote a learner member which is in sync with leader")
TOO_MANY_LEARNERS = _etcd(_FAILED, "too many learner members in cluster")
CLUSTER_ID_MISMATCH = _etcd(_FAILED, "cluster ID mismatch")
REQUEST_TOO_LARGE = _etcd(_INVALID, "request is too large")
REQUEST_TOO_MANY_REQUESTS = _etcd(Code.UNKNOWN, "too many requests")
ROOT_USER_NOT_EXIST = _etcd(_FAILED, "root user does not exist")
ROOT_ROLE_NOT_EXIST = _etcd(_FAILED, "root user does not have root role")
USER_ALREADY_EXIST = _etcd(_FAILED, "user name already exists")
USER_EMPTY = _etcd(_INVALID, "user name is empty")
USER_NOT_FOUND = _etcd(_FAILED, "user name not found")
ROLE_ALREADY_EXIST = _etcd(_FAILED, "role name already exists")
ROLE_NOT_FOUND = _etcd(_FAILED, "role name not found")
ROLE_EMPTY = _etcd(_INVALID, "role name is empty")
AUTH_FAILED = _etcd(_INVALID, "authentication failed, invalid user ID or password")
PERMISSION_NOT_GIVEN = _etcd(_INVALID, "permission not given")
PERMISSION_DENIED = _etcd(Code.PERMISSION_DENIED, "permission denied")
ROLE_NOT_GRANTED = _etcd(_FAILED, "role is not granted to the user")
PERMISSION_NOT_GRANTED = _etcd(_FAILED, "permission is not granted to the role")
AUTH_NOT_ENABLED = _etcd(_FAILED, "authentication is not enabled")
INVALID_AUTH_TOKEN = _etcd(Code.UNAUTHENTICATED, "invalid auth token")
INVALID_AUTH_MGMT = _etcd(_INVALID, "invalid auth management")
AUTH_OLD_REVISION = _etcd(_INVALID, "revision of auth store is old")
NO_LEADER = _etcd(_UNAVAILABLE, "no leader")
NOT_LEADER = _etcd(_FAILED, "not leader")
LEADER_CHANGED = _etcd(_UNAVAILABLE, "leader changed")
NOT_CAPABLE = _etcd(_FAILED, "not capable")
STOPPED = _etcd(_UNAVAILABLE, "server stopped")
TIMEOUT = _etcd(_UNAVAILABLE, "request timed out")
TIMEOUT_DUE_TO_LEADER_FAIL = _etcd(
    _UNAVAILABLE, "request timed out, possibly due to previous leader failure"
)
TIMEOUT_DUE_TO_CONNECTION_LOST = _etcd(
    _UNAVAILABLE, "request timed out, possibly due to connection lost"
)
TIMEOUT_WAIT_APPLIED_INDEX = _etcd(
    _UNAVAILABLE, "request timed out, waiting for the applied index took too long"
)
UNHEALTHY = _etcd(_UNAVAILABLE, "unhealthy cluster")
CORRUPT = _etcd(Code.DATA_LOSS, "corrupt cluster")
NOT_SUPPORTED_FOR_LEARNER = _etcd(_FAILED, "rpc not supported for learner")
BAD_LEADER_TRANSFEREE = _etcd(_FAILED, "bad leader transferee")
WRONG_DOWNGRADE_VERSION_FORMAT = _etcd(_INVALID, "wrong downgrade target version format")
INVALID_DOWNGRADE_TARGET_VERSION = _etcd(_INVALID, "invalid downgrade target version")
CLUSTER_VERSION_UNAVAILABLE = _etcd(_FAILED, "cluster version not found during downgrade")
DOWNGRADE_IN_PROCESS = _etcd(_FAILED, "cluster has a downgrade job in progress")
NO_INFLIGHT_DOWNGRADE = _etcd(_FAILED, "no inflight downgrade job")
CANCELED = _etcd(Code.CANCELLED, "request canceled")
DEADLINE_EXCEEDED = _etcd(Code.DEADLINE_EXCEEDED, "context deadline exceeded")

# Errors that etcd sends without a catalogue entry (GEN-09): raw text, code Unknown.
RAFT_PROPOSAL_DROPPED = EtcdError(Code.UNKNOWN, "raft proposal dropped")
NOT_PRIMARY_LESSOR = EtcdError(Code.UNKNOWN, "not a primary lessor")
LEADER_TRANSFER_TIMEOUT = _etcd(Code.UNKNOWN, "request timed out, leader transfer took too long")
UNKNOWN_METHOD = _etcd(Code.UNKNOWN, "unknown method")

# Errors of the Lock and Election services (CON-05, CON-11, CON-12).
LOCK_SESSION_EXPIRED = EtcdError(Code.UNKNOWN, "mutex: session is expired")
ELECTION_NOT_LEADER = EtcdError(Code.UNKNOWN, "election: not leader")
ELECTION_NO_LEADER = EtcdError(Code.UNKNOWN, "election: no leader")
ELECTION_MISSING_LEADER = EtcdError(Code.UNKNOWN, '"leader" field must be provided')

# What RangeStream refuses (RST-02).
RANGE_STREAM_ORDER = EtcdError(
    Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders"
)
RANGE_STREAM_FILTER = EtcdError(Code.UNIMPLEMENTED, "RangeStream does not support revision filters")

# Reasons in WatchResponse.cancel_reason.
WATCH_RANGE_EMPTY = "mvcc: watcher range is empty"
WATCH_DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
