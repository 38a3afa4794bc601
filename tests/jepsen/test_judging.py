"""Whether a run proved anything: what was done, and what the faults did."""

from __future__ import annotations

import pytest

from jepsen.chaos.judging import worth
from jepsen.history import Fault
from jepsen.verdict import Validity


def fault(name: str, effect: int) -> Fault:
    return Fault(name, [], 0, 1, effect=effect)


@pytest.mark.parametrize(
    ("effects", "validity"),
    [
        ({"kill": [1], "pause": [0]}, Validity.UNKNOWN),
        ({"kill": [1], "pause": [0, 1]}, Validity.VALID),
        ({f"f{n}": [min(n, 1)] for n in range(20)}, Validity.VALID),
        ({f"f{n}": [min(n // 3, 1)] for n in range(20)}, Validity.UNKNOWN),
        ({**{f"f{n}": [1] for n in range(20)}, "pause": [0, 0]}, Validity.UNKNOWN),
    ],
)
def test_faults_without_effect_make_a_run_worthless(
    effects: dict[str, list[int]], validity: Validity
) -> None:
    """All but one of many kinds that missed the only time it came."""
    faults = [fault(name, effect) for name, each in effects.items() for effect in each]
    verdict = worth(faults, [])
    assert verdict.validity is validity, verdict
