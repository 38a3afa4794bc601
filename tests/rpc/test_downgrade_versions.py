"""What Downgrade takes for a version, and which one may be the target."""

from __future__ import annotations

import pytest

from kvstore.errors import (
    INVALID_DOWNGRADE_TARGET_VERSION,
    WRONG_DOWNGRADE_VERSION_FORMAT,
    EtcdError,
)
from kvstore.rpc.downgrade import check_target, minor_version


@pytest.mark.parametrize("text", ["3.5", "3.5.0", "3.5.21", "3.5.0-rc.1", "3.5.0+git", "03.05.00"])
def test_patch_and_pre_release_are_of_no_account(text: str) -> None:
    """MNT-31."""
    assert minor_version(text) == (3, 5)


@pytest.mark.parametrize("text", ["", "3", "v3.5", "3.5.x", "3.5.0.0", "3.-5", " 3.5", "3.5\n"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """MNT-31: WrongDowngradeVersionFormat."""
    with pytest.raises(EtcdError) as refused:
        minor_version(text)
    assert refused.value is WRONG_DOWNGRADE_VERSION_FORMAT


@pytest.mark.parametrize("target", [(3, 6), (3, 4), (3, 7), (2, 5), (4, 5)])
def test_only_one_minor_version_down_is_a_target(target: tuple[int, int]) -> None:
    """MNT-31: InvalidDowngradeTargetVersion."""
    check_target((3, 5), "3.6.0")
    with pytest.raises(EtcdError) as refused:
        check_target(target, "3.6.0")
    assert refused.value is INVALID_DOWNGRADE_TARGET_VERSION
