"""What a trial cost: joules a sample and the workspace, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from halfstep import codec
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.trial_cost import with_energy, with_memory, with_time_shares, work_ratio
from halfstep.record import Record
from halfstep.report.words import warnings

PARTS = {"weights": 40, "gradients": 40, "optimizer": 80, "activations": 200, "casts": 20}


def energy(end: dict[str, Any], samples: int) -> dict[str, Any]:
    found: dict[str, Any] = codec.write(with_energy(TrialRow(), end, samples))
    return found


def parts_of_memory(parts: dict[str, int], ranks: list[Record], absent: str) -> dict[str, Any]:
    found: dict[str, Any] = codec.write(with_memory(TrialRow(), parts, ranks, absent))
    return found


def time_shares(sample: dict[str, Any], steps: int) -> dict[str, Any]:
    found: dict[str, Any] = codec.write(with_time_shares(TrialRow(), sample, steps))
    return found


def ended(**end: object) -> Record:
    return Record(Path("r"), end=end)


def test_joules_a_sample_are_those_a_step_by_the_samples_of_all_ranks() -> None:
    row = energy({"energy_joules": 900.0, "energy_how": "NVML", "joules_per_step": 24.0}, samples=32)
    assert (row["energy_joules"], row["joules_per_step"], row["joules_per_sample"]) == (900.0, 24.0, 0.75)
    assert row["energy_absent"] is row["joules_per_step_absent"] is row["joules_per_sample_absent"] is None


def test_joules_that_are_absent_say_why_at_every_level() -> None:
    row = energy({"energy_absent": "no RAPL"}, samples=32)
    assert [row[f"{name}_absent"] for name in ("energy", "joules_per_step", "joules_per_sample")] == [
        "no RAPL"
    ] * 3
    row = energy({"energy_joules": 9.0, "joules_per_step_absent": "too short"}, samples=32)
    assert (row["energy_absent"], row["joules_per_step_absent"]) == (None, "too short")
    row = energy({"energy_joules": 9.0, "joules_per_step": 1.0}, samples=0)
    assert row["joules_per_sample"] is None
    assert row["joules_per_sample_absent"] == "it is not known how many samples a step takes"


def test_workspace_is_the_allocators_peak_less_the_parts() -> None:
    record = ended(peak_memory_bytes=500, peak_memory_of_tensors=True)
    row = parts_of_memory(PARTS, [record], "")
    assert row["memory"] == {**PARTS, "workspace": 120}
    assert sum(row["memory"].values()) == 500
    assert row["workspace_absent"] is None


def test_a_resident_set_tells_of_no_workspace() -> None:
    record = ended(peak_memory_bytes=500, peak_memory_of_tensors=False)
    row = parts_of_memory(PARTS, [record], "")
    assert row["memory"] == PARTS
    assert row["workspace_absent"].startswith("on a CPU the peak is the resident set's")


def test_a_peak_below_the_parts_is_no_negative_workspace() -> None:
    record = ended(peak_memory_bytes=300, peak_memory_of_tensors=True)
    row = parts_of_memory(PARTS, [record], "")
    assert "workspace" not in row["memory"]
    assert row["workspace_absent"] == "the peak after the warm-up is below the parts of the sampled step"


def test_without_activations_there_is_no_workspace() -> None:
    record = ended(peak_memory_bytes=500, peak_memory_of_tensors=True)
    known = {part: size for part, size in PARTS.items() if part != "activations"}
    row = parts_of_memory(known, [record], "")
    assert row["memory"] == known
    assert row["workspace_absent"].startswith("the activations are not known")


def test_a_program_without_a_third_step_says_so() -> None:
    assert time_shares({}, 2)["time_shares_absent"] == "measured in the third step, which was not reached"
    assert time_shares({"time_shares_absent": "why"}, 9)["time_shares_absent"] == "why"


def test_a_step_that_computes_several_times_the_products_is_told() -> None:
    def row(flops: int, seed: int = 0, moved_at: int = 0) -> TrialRow:
        return TrialRow(seed=seed, matmul_flops={"bf16": flops}, loss_scale=((moved_at, 1.0),))

    base = [row(100), row(200, seed=1)]
    assert work_ratio([row(420)], base) == 4.2
    assert work_ratio([row(420), row(220, seed=1)], base) is None
    assert work_ratio([row(25)], base) == 0.25
    assert work_ratio([row(140)], base) is None
    assert work_ratio([row(420, moved_at=2)], base) is None
    assert work_ratio([TrialRow(seed=0)], base) is None
    assert warnings.work_ratio(4.2, "fp32").startswith("a step computes 4.2× the products of fp32's: ")


def test_a_program_that_ends_by_its_own_loss_is_told_by_its_number_of_steps() -> None:
    base = PrecisionRow(precision="fp32", status="ok", trials=1, steps=830)
    found = [warnings.of_row(replace(base, precision="bf16", steps=n), base, []) for n in (830, 1879)]
    why = "the program itself decides when to end, so final losses are of different steps"
    assert found == [[], [f"made 1,879 steps, and fp32 830: {why}"]]
    several = replace(base, trials=3)
    assert warnings.of_row(replace(several, steps=1), several, []) == [
        f"made at least 1 step, and fp32 at least 830: {why}"
    ]
    assert warnings.of_row(replace(base, status="failed", steps=3), base, []) == []
