"""The error of the snapshot package."""

from __future__ import annotations


class SnapshotError(Exception):
    """A snapshot file cannot be used, or not as was asked; the text says what is wrong with it."""
