"""Member URLs as etcd reads them: ``scheme://host:port``, comma separated, kept sorted.

Only syntax lives here; which URLs a member may use is decided in `kvstore.server.config`. Texts are
etcd's. A URL stays a ``str``, as it was written: member ids hash the text, so nothing may
normalise it on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

_SCHEMES = ("http", "https", "unix", "unixs")
_MAX_PORT = 65_535


class UrlError(ValueError):
    """A text is no URL that etcd takes; the message is etcd's and ends with the text."""


def parse_urls(text: str) -> tuple[str, ...]:
    """Return the comma-separated URLs of ``text`` (none if empty), sorted; raise `UrlError`."""
    return sort_urls(text.split(",")) if text else ()


def sort_urls(texts: Iterable[str]) -> tuple[str, ...]:
    """Return ``texts`` without surrounding blanks, each checked, sorted; raise `UrlError`."""
    return tuple(sorted(check_url(text.strip()) for text in texts))


def check_url(text: str) -> str:
    """Return ``text`` if it is a URL without path that names a port, else raise `UrlError`."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise UrlError(f"URL scheme must be http, https, unix, or unixs: {text}")
    if scheme in ("unix", "unixs"):
        return text
    authority, slash, path = rest.partition("/")
    try:
        host, port = split_host_port(text)
    except ValueError:
        raise UrlError(f'URL address does not have the form "host:port": {text}') from None
    if slash or path or urlsplit(text).query or urlsplit(text).fragment:
        raise UrlError(f"URL must not contain a path: {text}")
    if "@" in authority or any(ord(c) <= 32 or ord(c) == 127 for c in host):
        raise UrlError(f"URL host is not valid: {text}")
    if port > _MAX_PORT:
        raise UrlError(f"URL port is above {_MAX_PORT}: {text}")
    return text


def split_host_port(url: str) -> tuple[str, int]:
    """Return host (IPv6 without brackets; may be empty) and port; ValueError without a port."""
    authority = urlsplit(url).netloc
    host, colon, port = authority.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise ValueError(f"no port in {url!r}")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise ValueError(f"too many colons in {url!r}")
    return host, int(port)


def is_tls(url: str) -> bool:
    return url.startswith(("https://", "unixs://"))


def is_unix(url: str) -> bool:
    return url.startswith(("unix://", "unixs://"))
