"""Every program of the tests that trains prints, under ``as-is`` and ``fp32``, what it prints under python."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ..cli.running import PROGRAMS, halfstep, python

PATTERNS = sorted(PROGRAMS.glob("patterns/*.py"))
#: their threads race, or they are no programs
LEFT_OUT = ("hogwild", "common", "everything")

#: prints every number that a program comes to, to the last bit
DRIVER = """
import runpy, sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
for tensor in runpy.run_path(sys.argv[1], run_name="__main__")["results"]:
    print([float(x).hex() for x in tensor.detach().flatten()])
"""


#: the battery runs in so many parts, so that two workers share it
PARTS = 6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["as-is", "fp32"])
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, PARTS))]
)
def test_programs_print_what_they_print_under_python(
    precision: str, part: int, tmp_path: Path, long: bool
) -> None:
    programs = [path for path in PATTERNS if path.stem not in LEFT_OUT]
    drawn = programs[part::PARTS] if long else random.Random(precision).sample(programs, 1)
    (tmp_path / "driver.py").write_text(DRIVER)
    for program in drawn:
        words = ("driver.py", str(program))
        plain = python(*words, cwd=tmp_path)
        ours = halfstep("run", "--precision", precision, "--record", "r.jsonl", *words, cwd=tmp_path)
        assert plain.stdout.count("0x") > 10, plain.stderr
        assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout), program.stem
        said = [line for line in ours.stderr.splitlines() if not line.startswith("halfstep: ")]
        assert said == plain.stderr.splitlines(), program.stem
