"""Long work cut into slices: generators that yield between slices and return the result.

Whoever drives one may do other work between slices (the server yields to its loop), or run it to
the end with `drain`. Closing such a generator early releases what it pinned.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]

SLICE_KEYS = 1000
"""Keys or revisions that a slice looks at: about two milliseconds."""

SLICE_BYTES = 1 << 20
"""Bytes of values that end a slice early."""


def drain(steps: Steps[Result]) -> Result:
    """Run to the end without pausing and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result
