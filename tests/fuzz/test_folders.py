"""A comparison's folder whose files were damaged: one sentence or a table, and no figure from damaged data."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import halfstep
from halfstep.comparison import archive, tables
from halfstep.comparison.model.environment import Environment
from halfstep.comparison.request import Request, save
from halfstep.errors import UsageError
from halfstep.machine.support import Device
from halfstep.options import DEFAULTS
from halfstep.record import SCHEMA, Writer, read
from halfstep.report.loading import rebuild
from halfstep.report.page import render
from halfstep.report.terminal import table
from halfstep.trials import Outcome, Trial

from .damage import WAYS

ENVIRONMENT = Environment(
    cpu="A", python="3.11.7", frameworks={"torch": "2.13.0"}, devices=(Device(name="A"),), memory_bytes=2**33
)
TRIALS = [Trial(precision, seed) for seed in (0, 1) for precision in ("fp32", "fp16")]


def write_trial(request: Request, trial: Trial) -> None:
    writer = Writer(request.job.record(trial))
    writer.write("start", schema=SCHEMA, halfstep="1", precision=trial.precision, seed=trial.seed, repeat=0, rank=0,
                 world_size=1, command=["train.py"], pid=1, python="3.11.7", started="2026-01-01T00:00:00+00:00")  # fmt: skip
    writer.write("takeover", framework="pytorch", version="2.13.0", ran_as=trial.precision, asked=trial.precision,
                 asked_weights="fp32", described=trial.precision, fp32_units=[], software=None, lists=None,
                 emulated=False, device="cpu", seconds=0.1)  # fmt: skip
    writer.write("region", kind="model")
    for step in range(24):
        scale = {"loss_scale": 65536.0} if trial.precision == "fp16" else {}
        writer.write("step", step=step, loss=2.0 - 0.05 * step + 0.01 * trial.seed, seconds=0.1 if step else None,
                     skipped=False, **scale)  # fmt: skip
        writer.write("logged", name="accuracy", value=0.04 * step, step=step)
        if step == 1:
            writer.write("stored", weights={"fp32": 4096}, gradients={"fp32": 4096}, optimizer={"fp32": 8192})
            writer.write("sample", memory={"weights": 4096, "activations": 9000}, samples=8, fp32_units=[],
                         matmul_flops={trial.precision: 10**6}, odd_flops=0, time_shares={"products": 0.5, "other": 0.5},
                         profiled={"seconds": 0.1, "device": "cpu", "operations": 9})  # fmt: skip
    writer.write("warning", text="a warning")
    writer.write("end", status="ok", reason="", exit_code=0, exception=None, steps=24, skipped_steps=0,
                 raised_at={"place": "", "code": "", "modules": []}, files_read=[], peak_memory_bytes=10**8,
                 peak_memory_how="VmHWM", peak_resident_bytes=10**8, energy_absent="no counter",
                 load={"wall_seconds": 2.0, "cores": 2, "own_seconds": 2.0, "children_seconds": 0.0,
                       "others_seconds": 0.0, "waited_seconds": 0.0, "involuntary_switches": 3})  # fmt: skip
    outcome = Outcome(trial, "ok", "", 0, read(writer.path), seconds=3.0)
    assert outcome.record.damage == ""
    archive.keep(request, outcome)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole comparison."""
    place = tmp_path_factory.mktemp("fuzz") / "whole"
    request = Request("train.py", (), False, ("fp32", "fp16"), DEFAULTS, 1, 2, None, "", place)
    save(request, ENVIRONMENT)
    for trial in TRIALS:
        write_trial(request, trial)
    (place / "comparison.json").write_text(json.dumps(rebuild(place).data))
    return place


def rows_of(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{row['precision']}-seed{row['seed']}-repeat{row['repeat']}": row for row in data["trials"]}


def figures(row: dict[str, Any]) -> dict[str, Any]:
    names = (
        "steps",
        "losses",
        "step_times",
        "logged",
        "peak_memory_bytes",
        "memory",
        "matmul_share",
        "stored",
    )
    return {name: row[name] for name in names}


#: what a trial has of which no record can be trusted
NOTHING = {"steps": 0, "losses": [], "step_times": [], "logged": {}, "peak_memory_bytes": None, "memory": None,
           "matmul_share": None, "stored": None}  # fmt: skip


def check(data: dict[str, Any], whole: dict[str, dict[str, Any]], draw: bool) -> None:
    """Every row has the figures that it had, or none; and all of it can be written and drawn."""
    for label, row in rows_of(data).items():
        assert figures(row) in (figures(whole[label]), NOTHING), label
    json.dumps(data, allow_nan=False)
    tables.trials(data)
    tables.precisions(data)
    if draw:
        render(data)
        shown = io.StringIO()
        Console(file=shown, width=160).print(table(data))
        assert "\x1b" not in shown.getvalue()


@pytest.mark.parametrize(
    "name", ["record", "end", "record without an end", "request.json", "comparison.json"]
)
def test_a_damaged_folder(folder: Path, tmp_path: Path, name: str, long: bool) -> None:
    rounds = 2000 if long else 60
    chance = random.Random(name)
    whole = rows_of(rebuild(folder).data)
    assert all(row["status"] == "ok" for row in whole.values())
    for round_ in range(rounds):
        place = tmp_path / str(round_)
        shutil.copytree(folder, place)
        stem = place / "trials" / chance.choice(TRIALS).label
        files = {
            "record": f"{stem}.jsonl",
            "end": f"{stem}.end.json",
            "record without an end": f"{stem}.jsonl",
        }
        victim = Path(files.get(name, place / name))
        if name == "record without an end":
            stem.with_name(f"{stem.name}.end.json").unlink()
        way = chance.choice(WAYS)
        victim.write_bytes(way(victim.read_bytes(), chance))
        draw = round_ % 20 == 0
        try:
            if name == "comparison.json":
                loaded = halfstep.load(place)
                assert "\x1b" not in repr(loaded)
                loaded.to_rows()
                loaded.steps()
                if draw:
                    render(loaded.data)
            elif (
                name == "record without an end"
            ):  # its figures may be others, as nobody has kept a digest of it
                data = rebuild(place).data
                json.dumps(data, allow_nan=False)
                tables.trials(data)
            else:
                check(rebuild(place).data, whole, draw)
        except UsageError:
            pass
        except Exception as error:
            raise AssertionError(f"{way.__name__}, round {round_}: {type(error).__name__}") from error
        shutil.rmtree(place)
