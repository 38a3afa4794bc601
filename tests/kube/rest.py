"""The Kubernetes API over HTTPS: calls, lists in pages, and a watch that goes on like a reflector.

What lives here: a client for the tests with the real apiserver. What may not: retries of writes.
Trade-off: connections are kept, since thousands of calls are made; after a restart of apiserver
`forget_connections` must be called. kubectl is used where a person would use it.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

from tests.e2e.cluster import wait_until
from tests.kube.credentials import Credentials

CALL_SECONDS = 60.0
RECONNECT_SECONDS = 0.1
GONE = 410
MERGE_PATCH = "application/merge-patch+json"

Object = dict[str, Any]


class ApiError(Exception):
    """apiserver answered with a Status that is no success."""

    def __init__(self, status: Object) -> None:
        super().__init__(f"{status.get('code')} {status.get('reason')}: {status.get('message')}")
        self.code = int(status.get("code", 0))
        self.status = status


class Rest:
    """Calls as the administrator; may be used by many threads."""

    def __init__(self, credentials: Credentials) -> None:
        self._port = credentials.port
        self._tls = ssl.create_default_context(cafile=str(credentials.authority))
        self._headers = {"Authorization": f"Bearer {credentials.token}"}
        self._idle: list[http.client.HTTPSConnection] = []

    def connect(self) -> http.client.HTTPSConnection:
        """A new connection."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=CALL_SECONDS, context=self._tls
        )

    def forget_connections(self) -> None:
        """Close those that are kept."""
        while self._idle:
            self._idle.pop().close()

    def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = "application/json",
        **query: Any,
    ) -> Object:
        """One call; the decoded answer.

        Raises:
            ApiError: the answer is an error.
            OSError, http.client.HTTPException: there was no answer.
        """
        connection = self._idle.pop() if self._idle else self.connect()
        headers = {**self._headers, "Content-Type": content_type}
        payload = None if body is None else json.dumps(body)
        try:
            connection.request(method, with_query(path, query), payload, headers)
            answer = connection.getresponse()
            decoded = json.loads(answer.read())
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if answer.status >= 400:
            raise ApiError(decoded)
        assert isinstance(decoded, dict)
        return decoded

    def get(self, path: str, **query: Any) -> Object:
        """GET."""
        return self.call("GET", path, **query)

    def create(self, path: str, body: Object) -> Object:
        """POST."""
        return self.call("POST", path, body)

    def patch(self, path: str, body: Object) -> Object:
        """PATCH, as a merge."""
        return self.call("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str) -> Object:
        """DELETE."""
        return self.call("DELETE", path)

    def list(self, path: str, limit: int = 0, **query: Any) -> tuple[list[Object], str]:
        """All items, page by page, and the list's resourceVersion."""
        items: list[Object] = []
        page = self.get(path, limit=limit, **query)
        first = page["metadata"]["resourceVersion"]
        while True:
            items += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return items, first
            assert len(page["items"]) == limit
            page = self.get(path, limit=limit, **{"continue": token})
            assert page["metadata"]["resourceVersion"] == first

    def stream(self, path: str, on_open: Callable[[Any], None], **query: Any) -> Iterator[Object]:
        """Lines of a watch; `on_open` gets the connection, whose closing ends the iteration."""
        with closing(self.connect()) as connection:
            on_open(connection)
            watch = with_query(path, {**query, "watch": 1})
            connection.request("GET", watch, headers=self._headers)
            with connection.getresponse() as answer:
                if answer.status >= 400:
                    raise ApiError(json.loads(answer.read()))
                assert connection.sock is not None
                connection.sock.settimeout(None)
                for line in answer:
                    yield json.loads(line)


def with_query(path: str, query: dict[str, Any]) -> str:
    """`path` with the values that are set."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urllib.parse.urlencode(given)}" if given else path


def identity(item: Object) -> str:
    """Namespace and name."""
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def versions(items: list[Object]) -> dict[str, str]:
    """Identity → resourceVersion."""
    return {identity(item): item["metadata"]["resourceVersion"] for item in items}


class RestWatch:
    """Lists once, then watches and reconnects from the last resourceVersion until it is closed."""

    def __init__(self, rest: Rest, path: str) -> None:
        self._seen: set[tuple[str, str, str]] = set()
        self.relists = 0
        self._rest = rest
        self._path = path
        self._closed = threading.Event()
        self._connection: Any = None
        self._lock = threading.Lock()
        self._relist()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> RestWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        with suppress(OSError, AttributeError):  # there is no socket between two connections
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(CALL_SECONDS)
        assert not self._thread.is_alive()

    def seen(self) -> set[tuple[str, str, str]]:
        """(type, identity, resourceVersion) of every event so far."""
        with self._lock:
            return set(self._seen)

    def state(self) -> dict[str, str]:
        """Identity → resourceVersion of what exists, by the list and the events."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return dict(self._state)

    def wait_for(self, expected: dict[str, str], timeout: float = CALL_SECONDS) -> None:
        """Wait until the watched state is `expected`."""
        wait_until(lambda: self.state() == expected, timeout, f"{self._path} is seen by its watch")

    def _relist(self) -> None:
        items, self._version = self._rest.list(self._path, limit=500)
        with self._lock:
            self._state = versions(items)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                try:
                    self._follow()
                except ApiError as error:
                    if error.code == GONE:
                        self._relist()
                        self.relists += 1
                except (OSError, http.client.HTTPException, ValueError):
                    pass  # apiserver went away: ask again from the same version
                self._closed.wait(RECONNECT_SECONDS)
        except BaseException as error:
            self._failure = error

    def _follow(self) -> None:
        def opened(connection: Any) -> None:
            self._connection = connection

        query = {"resourceVersion": self._version, "allowWatchBookmarks": "true"}
        for event in self._rest.stream(self._path, opened, **query):
            kind, item = event["type"], event["object"]
            if kind == "ERROR":
                raise ApiError(item)
            version = item["metadata"]["resourceVersion"]
            assert int(version) >= int(self._version), f"{version} after {self._version}"
            self._version = version
            if kind == "BOOKMARK":
                continue
            with self._lock:
                self._seen.add((kind, identity(item), version))
                if kind == "DELETED":
                    del self._state[identity(item)]
                else:
                    self._state[identity(item)] = version
