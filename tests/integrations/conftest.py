"""Each program is run once in each way; importing a framework costs seconds."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from halfstep.record import Record, read

from ..once import once

PROGRAMS = Path(__file__).parent.parent / "programs" / "frameworks"

#: unit roundoff of each format, 2^-p for p significant bits
ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}


@dataclass(frozen=True)
class Ran:
    """One run of a program.

    Attributes:
        sections: its output by the script's own precision, as it announces it.
        record: what halfstep recorded; empty for plain python.
        folder: the folder that it wrote to.
    """

    sections: dict[str, str]
    record: Record
    folder: Path

    def losses(self, section: str = "alone", of: str = "") -> list[float]:
        """The losses that a section printed, as "losses [" or "losses of … ["."""
        lines = self.sections[section].splitlines()
        line = next(line for line in lines if line.startswith(f"losses{of} ["))
        return [float(loss.strip(" '")) for loss in line.partition("[")[2].rstrip("]").split(",")]


Runs = Callable[..., Ran]


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """``ran("lightning_loops.py", "fp16", "16-mixed")``: under halfstep, or by python where the recipe is None.

    Each is run once for all of pytest's workers.
    """

    @functools.cache
    def run(program: str, recipe: str | None, *own: str) -> Ran:
        halfstep = [] if recipe is None else ["-m", "halfstep", "run", "--precision", recipe, "--record", "r"]

        def make(folder: Path) -> None:
            done = subprocess.run(
                [sys.executable, *halfstep, str(PROGRAMS / program), "out", *own],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            parts = [part.partition("\n") for part in done.stdout.split("precision ")[1:]]
            (folder / "sections").write_text(json.dumps({name: text for name, _, text in parts}))

        name = "-".join(("framework", Path(program).stem, str(recipe), *own)).replace(os.sep, "_")
        folder = once(tmp_path_factory, name, make)
        record = Record(folder) if recipe is None else read(folder / "r")
        return Ran(json.loads((folder / "sections").read_text()), record, folder / "out")

    return run


def assert_close(losses: list[float], exact: list[float], recipe: str, products: int, passes: int) -> None:
    """A 16-bit run stays as close to the float64 run as roundoff lets it.

    An output of size 1 after L products, each of two rounded factors and a rounded result, is off by at most 3 L u;
    the mean of squares by 2 sqrt(loss) times that. The way back rounds as often, and every step so far may have
    moved the weights by as much again.
    """
    for index, (loss, true) in enumerate(zip(losses, exact, strict=True)):
        steps = index // passes
        bound = 2 * true**0.5 * 3 * products * ROUNDOFF[recipe] * (1 + 2 * steps)
        assert abs(loss - true) <= bound, (index, loss, true)
    assert losses != exact


@pytest.fixture(scope="module")
def plain(ran: Runs, request: pytest.FixtureRequest) -> Ran:
    """The module's PROGRAM by python, with each precision of its OWN."""
    return ran(request.module.PROGRAM, None, *request.module.OWN)


@pytest.fixture(params=["fp32", "bf16", "fp16"])
def under(ran: Runs, request: pytest.FixtureRequest) -> tuple[str, Ran]:
    """A recipe, and the module's PROGRAM under it, which asks for what UNDER says."""
    return request.param, ran(request.module.PROGRAM, request.param, request.module.UNDER[request.param])
