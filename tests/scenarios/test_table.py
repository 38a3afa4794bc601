"""Every scenario is shown by tests that exist, and docs/reliability.md says which."""

from __future__ import annotations

from tests.scenarios import report


def test_all_forty_scenarios_are_in_the_table_once() -> None:
    assert [row.number for row in report.scenarios()] == list(range(1, report.COUNT + 1))


def test_every_scenario_is_shown_by_a_test_that_exists() -> None:
    for row in report.scenarios():
        assert row.simulated or row.real, f"scenario {row.number} is shown by nothing"
        gone = report.missing(row.simulated + row.real)
        assert not gone, f"scenario {row.number}: {gone}"


def test_what_is_shown_one_way_only_says_why() -> None:
    for row in report.scenarios():
        assert (row.simulated and row.real) or row.note, f"scenario {row.number}"


def test_a_test_that_does_not_exist_is_noticed() -> None:
    here = "tests/scenarios/test_table.py"
    known = f"{here}::test_a_test_that_does_not_exist_is_noticed"
    assert report.missing([known, f"{here}::test_no", "tests/no.py::test_no"]) == [
        f"{here}::test_no",
        "tests/no.py::test_no",
    ]


def test_every_test_of_this_folder_is_in_the_table() -> None:
    listed = {test for row in report.scenarios() for test in row.simulated + row.real}
    for path in sorted(report.TABLE.parent.glob("test_*.py")):
        name = path.relative_to(report.ROOT).as_posix()
        for test in report.defined(path):
            if test.startswith("test_scenario"):
                assert f"{name}::{test}" in listed


def test_the_document_is_up_to_date() -> None:
    document = report.DOCUMENT.read_text()
    assert report.updated(document) == document, "make scenarios"
    assert report.updated("## Another section\n").startswith("## Another section\n")
