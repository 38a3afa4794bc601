"""Kinds of options that the command lines share: numbers with bounds."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the type of an option that takes a whole number from `least` on, to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if number < least or (most is not None and number > most):
            bounds = f"{least} to {most}" if most is not None else f"at least {least}"
            raise argparse.ArgumentTypeError(f"{number} is not {bounds}")
        return number

    return parse


def above_zero(text: str) -> float:
    """The type of an option that takes a number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
    return number
