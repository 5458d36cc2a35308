"""The page on security: the tests that it names exist, and a row without one says why."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "security.md"
ROWS = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| [0-9]", line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].partition(" ")[0])
def test_row(row):
    """A requirement has tests that exist, or what is missing, whose it is, or that there is no such thing."""
    tests = re.findall(r"`([\w/]+\.py)::(\w+)`", row[2]) if len(row) > 2 else []
    assert tests or re.search("Not met|Yours|There (is|are) no", row[1])
    for path, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / path).read_text(), re.MULTILINE), (path, name)


def test_each_requirement_is_there_once():
    """Of levels 1 and 2; numbers that the standard has deleted are left out."""
    numbers = [number for row in ROWS for number in re.findall(r"\b[0-9]+\.[0-9]+\.[0-9]+\b", row[0])]
    expected = [
        *(f"2.2.{number}" for number in (1, 2, 3)),
        *("3.1.1", "3.2.1", "3.2.2", "3.2.3", "3.2.4", "3.3.1", "3.3.2", "3.3.3", "3.3.4"),
        *("3.4.1", "3.4.2", "3.4.3", "3.4.4", "3.4.5", "3.5.1", "3.5.2", "3.5.3", "3.7.1"),
        *("4.1.1", "4.1.2", "4.1.3", "4.1.5", "4.2.1", "4.2.2", "4.3.1", "4.3.2", "4.3.3"),
        *("7.1.1", "7.1.2", "7.1.3", "7.1.4", "7.2.1", "7.2.2", "7.3.1", "7.3.3", "7.3.4", "7.4.1", "7.4.2", "7.4.3"),
        *(f"11.1.{number}" for number in range(1, 9)),
        *("13.1.1", "13.1.3", "13.1.4", "13.1.5", "13.2.1", "13.2.2", "13.2.3", "13.2.5", "13.2.6"),
        *("13.3.1", "13.3.2", "13.4.1", "13.4.2"),
    ]
    assert numbers == expected
