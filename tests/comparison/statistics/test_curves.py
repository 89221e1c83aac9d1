"""Figures that are not finite, or too large to be squared, are absent; they end no comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from halfstep import codec
from halfstep.comparison import tables
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.request import Request
from halfstep.comparison.running import assemble
from halfstep.comparison.statistics import curves
from halfstep.comparison.statistics.curves import Curve
from halfstep.machine.support import Device
from halfstep.options import DEFAULTS
from halfstep.record import SCHEMA, Writer, read
from halfstep.report.reading import read as read_comparison
from halfstep.report.words.comparison import worded
from halfstep.trials import Outcome, Trial

ENVIRONMENT = Environment(devices=(Device(name="A"),))
SEEDS = (0, 1)

#: (value at the places, the ordinary value elsewhere) of a step, seed and precision
PLACES: dict[str, Callable[[int, int, str], bool]] = {
    "all": lambda step, seed, precision: True,
    "first": lambda step, seed, precision: step == 0,
    "last": lambda step, seed, precision: step == 19,
    "one precision": lambda step, seed, precision: precision == "fp16",
    "one seed": lambda step, seed, precision: seed == 1,
}


def trial(
    folder: Path, at: Trial, figure: str, value: float, placed: Callable[[int, int, str], bool]
) -> Outcome:
    job = request(folder).job
    writer = Writer(job.record(at))
    writer.write("start", schema=SCHEMA, precision=at.precision, seed=at.seed, repeat=at.repeat)
    for step in range(20):
        figures = {"loss": 2 - 0.1 * step + 0.01 * at.seed, "val_loss": 3 - 0.1 * step}
        figures |= {figure: value} if placed(step, at.seed, at.precision) else {}
        writer.write("step", step=step, loss=figures["loss"], seconds=0.1 if step else None, skipped=False)
        writer.write("logged", name="val_loss", value=figures["val_loss"], step=step)
    writer.write("end", status="ok", reason="", exit_code=0, steps=20)
    return Outcome(at, "ok", "", 0, read(writer.path))


def request(folder: Path) -> Request:
    return Request("train.py", (), False, ("fp32", "fp16"), DEFAULTS, 2, 2, None, "", folder)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [math.nan, -math.inf, 1.7e308, 1e200, 1e-320], ids=repr)
@pytest.mark.parametrize("figure", ["loss", "val_loss"])
def test_no_figure_ends_a_comparison(tmp_path: Path, figure: str, value: float, place: str) -> None:
    plan = [Trial(p, seed, repeat) for repeat in (0, 1) for seed in SEEDS for p in ("fp32", "fp16")]
    outcomes = [trial(tmp_path, at, figure, value, PLACES[place]) for at in plan]
    found = codec.write(worded(assemble(request(tmp_path), outcomes, ENVIRONMENT)))
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert len(read_comparison(found).trials) == 8
    assert len(tables.trials(found)) == len(tables.steps(found)) / (20 + 19 + 20) == 8
    usable = place == "first" or value == 1e-320
    fp16 = found["verdicts"][1]
    final = fp16["logged"].get("val_loss") if figure == "val_loss" else fp16["loss"]
    if usable:
        assert math.isfinite(final["final"]["median"])
    elif place == "one seed":
        assert final["difference"]["seeds"] == 1
    else:
        assert final is None


def test_means_of_figures_beyond_the_largest_are_absent() -> None:
    assert curves.final_loss([1.0, 1e150, None]) == (1.0 + 1e150) / 2
    assert curves.final_loss([1.0, 1.1e150]) is None
    assert curves.final_loss([math.nan]) is None
    assert curves.final("accuracy", Curve.of([])) is None
    ours, theirs = Curve.of(enumerate([1e200, 2.0, math.nan])), Curve.of(enumerate([-1e200, 1.5, 1.0]))
    assert as_pairs(curves.difference(ours, theirs)) == [(1, 0.5)]
    assert curves.area(Curve.of(enumerate([1e200, 3.0]))) == 3.0


def as_pairs(curve: Curve) -> list[tuple[int, float]]:
    return list(zip(curve.steps, curve.values.tolist(), strict=True))


def test_curves_are_compared_at_the_steps_that_both_have() -> None:
    """Steps in any order, twice or of thousands of digits: a script may log as it likes."""
    far = 10**4000
    ours, theirs = (
        Curve.of([(7, 9.0), (3, 1.0), (far, 4.0), (7, 2.0)]),
        Curve.of([(far, 1.0), (5, 8.0), (7, 0.5)]),
    )
    assert as_pairs(ours) == [(3, 1.0), (7, 2.0), (far, 4.0)]
    assert as_pairs(curves.difference(ours, theirs)) == [(7, 1.5), (far, 3.0)]
    assert curves.parts([ours, theirs]) == ([(7, 7), (far, far)], [[2.0, 4.0], [0.5, 1.0]])
