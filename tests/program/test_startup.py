"""Modules beside the program hide those of the library, as under python; and halfstep needs nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from halfstep.program.startup import forget_what_lies_in

from .launch import launch


@pytest.fixture(autouse=True)
def _modules_as_before() -> object:
    before = dict(sys.modules)
    yield
    sys.modules.clear()
    sys.modules.update(before)


def test_only_what_lies_beside_the_program_is_forgotten(tmp_path: Path) -> None:
    import colorsys
    import wsgiref.util

    for name in ("colorsys.py", "os.py", "time.py", "halfstep.py"):
        (tmp_path / name).write_text("")
    for name in ("wsgiref", "sndhdr"):
        (tmp_path / name).mkdir()
    (tmp_path / "wsgiref" / "__init__.py").write_text("")
    sys.modules["sndhdr"] = colorsys  # a folder without __init__.py hides nothing
    forget_what_lies_in(str(tmp_path))
    assert {"colorsys", "wsgiref", "wsgiref.util"}.isdisjoint(sys.modules)
    assert {"os", "time", "halfstep", "halfstep.program", "sndhdr"} <= set(sys.modules)
    assert wsgiref.util


def test_it_is_made_of_the_standard_library_alone(tmp_path: Path) -> None:
    """Nothing that a program may want to set up before its import is imported by the runner."""
    (tmp_path / "script.py").write_text(
        "import sys\nnames = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names - sys.stdlib_module_names - {'__main__', '__mp_main__'}))\n"
    )
    python = launch(["script.py"], tmp_path)
    begin = "from halfstep.program import *; run(Target.parse('script.py', [], module=False))"
    ours = launch(["-c", begin], tmp_path)
    assert ours.code == 0, ours.err
    added = set(eval(ours.out)) - set(eval(python.out))
    assert added == {"halfstep"}
