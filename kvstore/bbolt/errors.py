"""The one error tree of the bbolt package."""

from __future__ import annotations


class BoltError(Exception):
    """Root of all errors of this package."""


class BoltDamaged(BoltError):
    """The bytes are not a sound bbolt database.

    Attributes:
        page: number of the page where the damage was met, None when it is the file as a whole.
        reason: what was found there.
    """

    def __init__(self, page: int | None, reason: str) -> None:
        super().__init__(reason if page is None else f"page {page}: {reason}")
        self.page = page
        self.reason = reason


class BoltRefused(BoltError):
    """Data that a bbolt database cannot hold was to be written; the text says which."""
