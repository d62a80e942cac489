"""Tests that docs/faults.md has the tests that exist."""

from tests.faults import table


def test_the_page_names_the_tests_that_exist() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.written(page, table.by_fault()) == page, "run python -m tests.faults.table"


def test_every_fault_of_the_page_has_a_test() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert sorted(set(table.rows(page)) - set(table.by_fault())) == []


def test_every_numbered_test_is_in_the_page() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert sorted(set(table.by_fault()) - set(table.rows(page))) == []


def test_a_fault_without_a_test_is_shown() -> None:
    assert table.written("| 7 | a | b | old |\n| 8 | c | d | x |", {7: ["t"]}) == "| 7 | a | b | t |\n| 8 | c | d | none |"
