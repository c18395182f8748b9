"""docs/systems.md against the repository: every row names what exercises it, and that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docs" / "systems.md").read_text().splitlines()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in LINES
    if re.match(r"\| (\d+|[A-Z][a-z].*) \|", line) and "Exercised by" not in line
]
SYSTEMS = [row for row in ROWS if row[0].isdigit()]


def test_all_systems_are_there_in_order():
    assert [int(row[0]) for row in SYSTEMS] == list(range(1, 35))
    assert all(len(row) == 5 and all(row) for row in SYSTEMS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0] if row[0].isdigit() else row[0][:30])
def test_what_exercises_a_system_exists(row):
    cell = row[2] if row[0].isdigit() else row[1]
    named = re.findall(r"`([^`]+)`", cell)
    assert named
    for name in named:
        path, _, test = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(), name
