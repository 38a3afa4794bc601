"""Fetches a snapshot from a running server, of this project or etcd, into a file.

The file appears under its name only when it is complete, has its digest, and is on the disk.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import grpc

from kvstore.pb.rpc_pb2 import SnapshotRequest, SnapshotResponse
from kvstore.snapshot.errors import SnapshotError
from kvstore.snapshot.file import DIGEST_BYTES, has_digest
from kvstore.storage.durable import replace_durably

METHOD = "/etcdserverpb.Maintenance/Snapshot"


def save(endpoint: str, filename: str, dial_timeout_s: float) -> str:
    """Save a snapshot of one member; return its storage version, empty before etcd 3.6.

    Args:
        endpoint: ``host:port``, with ``http://`` or without.

    Raises:
        SnapshotError: the server cannot be reached or breaks off, or its data are damaged.
        OSError: the file cannot be written.
    """
    scheme, separator, rest = endpoint.rpartition("://")
    if separator and scheme != "http":
        raise SnapshotError(f"{endpoint}: {scheme} is not implemented yet in this client")
    part = Path(f"{filename}.part")
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
            version = _fetch(rest, file, dial_timeout_s)
            os.fsync(file.fileno())
        replace_durably(str(part), filename)
    finally:
        part.unlink(missing_ok=True)
    return version


def _fetch(endpoint: str, file: BinaryIO, dial_timeout_s: float) -> str:
    digest, last, size, version = hashlib.sha256(), b"", 0, ""
    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=dial_timeout_s)
        except grpc.FutureTimeoutError:
            raise SnapshotError(f"{endpoint} does not answer: context deadline exceeded") from None
        call = channel.unary_stream(
            METHOD,
            request_serializer=SnapshotRequest.SerializeToString,
            response_deserializer=SnapshotResponse.FromString,
        )
        try:
            for response in call(SnapshotRequest()):
                # The digest, which is the last 32 bytes of all, is not part of itself.
                last += response.blob
                digest.update(last[:-DIGEST_BYTES])
                last = last[-DIGEST_BYTES:]
                file.write(response.blob)
                size += len(response.blob)
                version = version or response.version
        except grpc.RpcError as error:
            raise SnapshotError(
                f"{endpoint}: could not write snapshot: {error.details()}"
            ) from error
    file.flush()
    if not has_digest(size):
        raise SnapshotError(f"{endpoint}: sha256 checksum not found [bytes: {size}]")
    if digest.digest() != last:
        raise SnapshotError(
            f"{endpoint}: expected sha256 {last.hex()}, got {digest.hexdigest()}: the data were"
            " damaged on their way"
        )
    return version
