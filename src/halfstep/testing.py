"""A fixture of pytest: a comparison as a test. Installed with halfstep, pytest finds it by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def halfstep_compare(tmp_path: Path) -> Callable[..., Any]:
    """``halfstep_compare("train.py", require="bf16: no worse, speed >= 1.2", seeds=5)``: a comparison that must hold.

    Takes the keywords of :func:`halfstep.compare`; ``out`` is a folder in ``tmp_path`` unless it is given. The test
    fails with the figure and its interval where what is required does not hold, or the data cannot tell.
    """
    import halfstep
    from halfstep.comparison.requirements import Unmet

    def compare(program: Any, **options: Any) -> Any:
        try:
            return halfstep.compare(program, **({"out": tmp_path / "halfstep"} | options))
        except Unmet as error:
            pytest.fail(str(error), pytrace=False)

    return compare
