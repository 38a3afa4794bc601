"""HTTP headers to gRPC metadata (HTP-13).

``Authorization`` travels as ``authorization``, ``Grpc-Metadata-Name`` as ``name``, and
``Grpc-Timeout`` becomes the call's deadline. etcd's gateway passes more on (``Cookie`` as
``grpcgateway-cookie``, the addresses of proxies), which no service of etcd looks at.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from typing import Final

from kvstore.errors import Code, EtcdError

Headers = Iterable[tuple[bytes, bytes]]

_PREFIX: Final = b"grpc-metadata-"
_BINARY: Final = b"-bin"
_RESERVED: Final = frozenset((b"content-type", b"te", b"user-agent", b"host", b"connection"))
"""Headers that belong to the transport, like all that begin with ``grpc-``."""

_NAME: Final = re.compile(rb"[0-9a-z._-]+")
_TEXT: Final = re.compile(rb"[\x20-\x7e]*")
_TIMEOUT: Final = re.compile(rb"([+-]?[0-9]{1,18})([HMSmun])")
_UNITS_NS: Final = {
    b"n": 1,
    b"u": 10**3,
    b"m": 10**6,
    b"S": 10**9,
    b"M": 60 * 10**9,
    b"H": 3600 * 10**9,
}
_MOST_DIGITS: Final = 99_999_999
"""grpc-timeout has at most eight digits."""


def call_metadata(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the metadata of a call, names in lower case, as gRPC headers.

    Raises EtcdError (INVALID_ARGUMENT): a time-out or a binary value that cannot be read.
    """
    found = []
    for name, value in headers:
        if name == b"authorization":
            found.append((name, value))
        elif name == b"grpc-timeout":
            found += _timeout(value)
        elif name.startswith(_PREFIX):
            found += _passed_on(name[len(_PREFIX) :], value)
    return found


def _passed_on(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    if name in _RESERVED or name.startswith(b"grpc-") or not _NAME.fullmatch(name):
        return []
    if name.endswith(_BINARY):
        try:
            binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
        except ValueError as error:
            text = f"invalid binary header {name.decode()}: {error}"
            raise EtcdError(Code.INVALID_ARGUMENT, text) from None
    elif not _TEXT.fullmatch(value):
        return []
    return [(name, value)]


def _timeout(value: bytes) -> list[tuple[bytes, bytes]]:
    """The time-out in gRPC's form, which has fewer digits; zero means none, below zero: over."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        text = f"invalid grpc-timeout: {value.decode('utf-8', 'replace')}"
        raise EtcdError(Code.INVALID_ARGUMENT, text)
    timeout_ns = int(match[1]) * _UNITS_NS[match[2]]
    if timeout_ns == 0:
        return []
    timeout_ns = max(timeout_ns, 0)
    for unit, size_ns in _UNITS_NS.items():
        if timeout_ns // size_ns <= _MOST_DIGITS:
            return [(b"grpc-timeout", b"%d%s" % (timeout_ns // size_ns, unit))]
    return [(b"grpc-timeout", b"%dH" % _MOST_DIGITS)]
