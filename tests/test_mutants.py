"""The table of files that judge, and which faults are put into them; the faults themselves are `make mutants`'s."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")


def test_every_file_and_its_nearest_tests_are_there() -> None:
    import mutants

    table = mutants.tomllib.loads(mutants.TABLE.read_text())
    paths = [path for file, entry in table.items() for path in (file, *entry["tests"])]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_no_fault_is_put_into_a_type() -> None:
    """Types are not computed: a fault in one changes nothing."""
    import mutants

    source = "def f(a: int | None, b=1) -> int | None:\n    c: str | None = a\n    return c or b | 1\n"
    spans = list(mutants.written_types(source))
    assert sorted(spans) == [((1, 9), (1, 19)), ((1, 29), (1, 39)), ((2, 7), (2, 17))]
