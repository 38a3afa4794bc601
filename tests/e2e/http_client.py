"""Plain HTTP requests to a member: what curl would send, with the answer in full."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 15.0


class Answer(NamedTuple):
    """Status, headers (names in lower case) and body of one answer."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def ask(
    port: int, path: str, body: Any = None, method: str | None = None, **headers: str
) -> Answer:
    """One request on a connection of its own; GET without a body, else POST.

    A body that is neither bytes nor text is sent as JSON.
    """
    if body is not None and not isinstance(body, bytes | str):
        body = json.dumps(body)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(
            method or ("GET" if body is None else "POST"),
            path,
            body,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read().decode())
    finally:
        connection.close()


class LineStream:
    """A streaming call of the gateway: its answer line by line. Closing it leaves the call."""

    def __init__(self, port: int, path: str, *requests: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        self._connection.request("POST", path, "".join(map(json.dumps, requests)))
        self._response = self._connection.getresponse()
        self.status = self._response.status

    def next(self) -> Any:
        """Return the next line, parsed; AssertionError at the end of the answer."""
        line = self._response.readline()
        assert line.endswith(b"\n"), f"the answer ended: {line!r}"
        return json.loads(line)

    def result(self) -> Any:
        """Return the next line's result."""
        return self.next()["result"]

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def __enter__(self) -> LineStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
