"""The list of behaviours is complete, and docs/conformance.md says what the tests say."""

from __future__ import annotations

import pytest

from tests.conformance import report


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("MNT-13: a promise", ["MNT-13"]),
        ("MNT-05..08, KUB-01", ["MNT-05", "MNT-06", "MNT-07", "MNT-08", "KUB-01"]),
        ("HTP-01, 03 and 04: three", ["HTP-01", "HTP-03", "HTP-04"]),
        ("RNG-01, DEL-01", ["RNG-01", "DEL-01"]),
        ("a 404, RFC-12, TXN-1", []),
    ],
)
def test_items_are_found_in_docstrings(text: str, names: list[str]) -> None:
    assert list(report.named_in(text)) == names


def test_tests_and_notes_name_existing_items_only() -> None:
    named = {*report.tests_by_item(), *report.notes()}
    assert named - set(report.items()) == set()


def test_every_item_that_is_no_quirk_has_a_test_or_a_reason() -> None:
    assert report.unexplained() == []


def test_the_document_is_up_to_date() -> None:
    """Without the status column, which only a run can fill."""
    written = report.without_status(report.DOCUMENT.read_text().splitlines())
    assert written == report.without_status(report.render({}).splitlines()), "make conformance"
