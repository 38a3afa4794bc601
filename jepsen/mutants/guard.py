"""Broken servers are for this project's own checkout: an installed release has none."""

from __future__ import annotations

from pathlib import Path

import kvstore
import raft


class Refused(Exception):
    """This is an installed release."""


def require_source_checkout(packages: Path | None = None) -> None:
    """Raise Refused unless `kvstore` and `raft` are imported from this project's source tree.

    Args:
        packages: the folder that holds the packages; for tests.
    """
    found = {Path(module.__file__ or "").resolve().parents[1] for module in (kvstore, raft)}
    root = packages if packages is not None else found.pop()
    if packages is None and found:
        raise Refused("kvstore and raft come from different places")
    inside = {"site-packages", "dist-packages"} & set(root.parts)
    if inside or not (root / "pyproject.toml").is_file() or not (root / "tests").is_dir():
        raise Refused(
            f"mutants run from a source checkout only, and kvstore was imported from {root}"
        )
