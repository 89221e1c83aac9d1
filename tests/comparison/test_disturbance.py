"""Trials that other work disturbed: from loads that are known, and of the machine itself while something else runs."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfstep.comparison.disturbance import disturbances
from halfstep.comparison.model.trials import Disturbed
from halfstep.comparison.rows import trial_row
from halfstep.meters.load import LoadMeter
from halfstep.record import Record

from .simulated import outcome
from .told import recommend, told_rows


def load(waited: float, others: float = 0.0, own: float = 10.0, cores: int = 4) -> dict[str, Any]:
    """Ten seconds on four cores; the trial waited for so many, and others took so many."""
    return {
        "wall_seconds": 10.0, "cores": cores, "own_seconds": own, "children_seconds": 0.0, "others_seconds": others,
        "waited_seconds": waited, "involuntary_switches": 100,
    }  # fmt: skip


def record(figures: dict[str, Any] | None) -> Record:
    return Record(Path("r"), end={} if figures is None else {"load": figures})


@pytest.mark.parametrize(
    ("loads", "disturbed"),
    [
        ([load(0.1), load(0.2)], [False, False]),
        ([load(0.1), load(5.0, others=20.0)], [False, True]),
        ([load(0.1), load(0.1, others=20.0)], [False, False]),  # others ran on cores that were free
        ([load(5.0), load(5.0)], [False, False]),  # its own data loaders: alike in all
        ([load(0.1), load(30.0)], [False, True]),  # processes that it started itself, in one trial alone
        (
            [load(0.526), load(2.195)],
            [False, True],
        ),  # shares of 0.05 and 0.18, which is above 2 x 0.05 + 0.05
        ([load(0.64), load(1.9)], [False, False]),  # 0.06 and 0.16, which is not above 2 x 0.06 + 0.05
        ([load(0.0), load(1.36)], [False, False]),  # 0.12, less than counts alone
        ([load(0.0), load(1.5, own=8.5)], [False, True]),  # 0.15, which counts
        ([load(1.0, own=9.0), load(2.5, own=7.5)], [False, False]),  # 0.25, no more than 2 x 0.1 + 0.05
        ([load(2.0, others=1.5, cores=0)], [True]),  # how many cores there are is not known: one at least
        ([load(5.0, others=30.0), load(6.0, others=30.0)], [True, True]),
        ([None, load(5.0, others=20.0)], [False, True]),
        ([load(float("nan")), {"cores": 4}], [False, False]),
    ],
)
def test_a_trial_is_disturbed_where_it_waited_for_others(loads: list[Any], disturbed: list[bool]) -> None:
    assert [found is not None for found in disturbances([record(each) for each in loads])] == disturbed


def test_what_siblings_took_is_no_disturbance_but_waiting_more_than_they_is() -> None:
    loads = [load(2.0, others=30.0), load(2.1, others=30.0), load(9.0, others=30.0)]
    records = [record(each) for each in loads]
    assert [found is not None for found in disturbances(records)] == [True, True, True]
    found = disturbances(records, siblings=True)
    assert [each is not None for each in found] == [False, False, True]
    assert found[2] is not None
    assert found[2].others_cores == 0.0


def compared(seconds: dict[str, list[tuple[float, bool]]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trials of each precision: the step in seconds, and whether other work disturbed it."""
    told = Disturbed(4, 3.0, 0.6)
    trials, rows = [], []
    for precision, every in seconds.items():
        for repeat, (step, disturbed) in enumerate(every):
            made = outcome(precision, [2 - 0.1 * i for i in range(15)], repeat=repeat, seconds=[step] * 15)
            flops = {"event": "sample", "matmul_flops": {precision: 9}}
            made.record.add(flops)
            trials.append(made)
            rows.append(
                replace(
                    trial_row(made, (), ""), disturbed=told if disturbed else None, joules_per_step=10 * step
                )
            )
    found: list[dict[str, Any]] = told_rows(trials, rows)
    return recommend(found), found


def test_disturbed_trials_are_left_out_of_the_speed_and_of_energy() -> None:
    advice, found = compared({
        "fp32": [(0.2, False), (0.202, False), (3.0, True)], "bf16": [(0.1, False), (0.101, False)]
    })  # fmt: skip
    assert found[1]["speed_ratio"]["value"] == pytest.approx(2.0)
    assert found[1]["energy_ratio"]["value"] == pytest.approx(0.5)
    assert found[0]["energy"]["high"] == pytest.approx(2.02)
    assert found[0]["step_time"]["median"] == pytest.approx((0.2 * 0.202) ** 0.5)
    assert advice["precision"] == "bf16"
    assert found[0]["warnings"] == [
        "disturbed in 1 of 3 trials: other processes took 3.0 of 4 cores, and it waited 60% of its time for a processor; "
        "such step times do not count for the verdict on speed"
    ]


@pytest.mark.parametrize("of_fp32", [[(3.0, True), (3.1, True)], [(3.0, True), (0.2, False), (3.1, True)]])
def test_without_enough_quiet_trials_there_is_no_verdict_on_speed(of_fp32: list[tuple[float, bool]]) -> None:
    advice, found = compared({"fp32": of_fp32, "bf16": [(0.1, False), (0.101, False)]})
    assert found[1]["speed_ratio"]["low"] is None
    assert not found[1]["speed_ratio"]["significant"]
    assert (advice["precision"], advice["decided"]) == ("fp32", False)
    assert "other work on the machine disturbed the trials: compare again when it is quiet" in advice["text"]
    times = [row["step_time"]["median"] for row in found]
    assert found[1]["speed_ratio"]["value"] == pytest.approx(
        times[0] / times[1]
    )  # the table agrees with itself


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_meter_sees_other_processes_and_counts_its_own_children_apart() -> None:
    """A busy child takes time of its own; what this process computes is its own."""
    meter = LoadMeter()
    meter.start()
    spin = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    started = time.process_time()
    subprocess.run([sys.executable, "-S", "-c", spin], check=True)
    while time.process_time() < started + 0.2:
        pass
    meter.mark()
    found = meter.read()["load"]
    assert found["children_seconds"] >= 0.29
    assert 0.19 <= found["own_seconds"] <= found["wall_seconds"] * found["cores"]
    assert min(found.values()) >= 0


def test_a_system_that_tells_nothing_is_absent_with_the_reason(tmp_path: Path) -> None:
    meter = LoadMeter(tmp_path)
    assert "before the meters were started" in meter.read()["load_absent"]
    meter.start()
    assert meter.read()["load_absent"].startswith("only Linux reports what other processes take")


def test_a_disturbed_trial_that_was_slow_is_not_called_slower() -> None:
    advice, found = compared({"fp32": [(0.1, False), (0.101, False)], "bf16": [(30.0, True), (31.0, True)]})
    assert found[1]["why_no_faster"] == []
    assert found[1]["energy_absent"] == "other work disturbed every trial, and the counter counts it, too"
    assert "the data cannot tell whether bf16 is faster (0.0033×)" in advice["text"]
