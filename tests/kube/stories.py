"""What the tests with apiserver's requests share: running a story, filling a resource, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import grpc
import pytest

from tests.kube.client import Resource

T = TypeVar("T")
STORY_SECONDS = 120.0

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE_REVISION = "etcdserver: mvcc: required revision is a future revision"
LEASE_NOT_FOUND = "etcdserver: requested lease not found"
TOO_LARGE = "etcdserver: request is too large"


def tell(endpoints: Sequence[str], resource: str, story: Callable[[Resource], Awaitable[T]]) -> T:
    """Run `story` with a connected client of `resource`; AssertionError when it takes for ever."""

    async def told() -> T:
        async with asyncio.timeout(STORY_SECONDS), Resource(endpoints, resource) as client:
            await client.connected()
            return await story(client)

    return asyncio.run(told())


async def fill(client: Resource, count: int, start: int = 0) -> dict[str, int]:
    """Create objects ``ns-<n % 3>/<n>`` one after the other; name → revision."""
    revisions = {}
    for n in range(start, start + count):
        name = f"ns-{n % 3}/{n:05}"
        written = await client.create(name, f"object {n}".encode())
        assert written.succeeded
        revisions[name] = written.revision
    return revisions


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    """The call inside must fail with exactly this: apiserver's client compares both (GEN-07)."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert (caught.value.code(), caught.value.details()) == (code, text)
