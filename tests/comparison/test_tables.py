"""The tables and CSV files of a comparison, to the last bit, and safe in a spreadsheet."""

from __future__ import annotations

import csv
import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from halfstep.comparison import tables
from halfstep.comparison.model.comparison import SCHEMA
from halfstep.errors import UsageError
from halfstep.report.loading import Comparison, load

from ..report.sample import comparison, hostile


@pytest.fixture
def loaded(tmp_path: Path) -> Comparison:
    (tmp_path / "comparison.json").write_text(json.dumps(comparison()))
    return load(tmp_path)


def test_one_row_a_trial_and_one_a_precision(loaded: Comparison) -> None:
    rows, table = loaded.to_rows(), loaded.table()
    assert len(rows) == len(loaded.trials)
    assert len({tuple(row) for row in rows}) == 1, "every row has every column"
    assert [row["precision"] for row in table] == [v["precision"] for v in loaded.verdicts]
    assert table[2]["speed_ratio"] == loaded.verdicts[2]["speed_ratio"]["value"]
    assert table[0]["speed_ratio"] is None
    assert rows[0]["memory_weights"] == loaded.trials[0]["memory"]["weights"]


def test_csv_gives_every_number_back(loaded: Comparison, tmp_path: Path) -> None:
    path, beside = tables.write_csv(loaded.data, tmp_path / "c.csv")
    assert beside.name == "c-steps.csv"
    with open(beside, newline="") as file:
        long = list(csv.DictReader(file))
    trial = loaded.trials[0]
    own = [r for r in long if (r["precision"], r["seed"], r["repeat"]) == ("fp32", "0", "0")]
    losses = [float(r["value"]) for r in own if r["figure"] == "loss"]
    times = [(int(r["step"]), float(r["value"])) for r in own if r["figure"] == "seconds"]
    assert losses == trial["losses"]
    assert [t for _, t in times] == trial["step_times"]
    assert times[-1][0] == trial["steps"] - 1
    assert {r["figure"] for r in own} == {"loss", "seconds", "accuracy"}
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["step_seconds"]) for r in rows if r["step_seconds"]] == [
        t["step_seconds"]["median"] for t in loaded.trials if t["step_seconds"]
    ]


@pytest.mark.parametrize("payload", ['=HYPERLINK("http://x")', "+1+1", "-2", "@SUM(A1)", "\t=1"])
def test_text_is_never_a_formula(tmp_path: Path, payload: str) -> None:
    path, beside = tables.write_csv(hostile(payload), tmp_path / "c.csv")
    for file in (path, beside):
        with open(file, newline="") as opened:
            cells = [cell for row in csv.reader(opened) for cell in row]
        assert f"'{payload}" in cells
        assert payload not in cells


def test_a_csv_that_cannot_be_written(tmp_path: Path, loaded: Comparison) -> None:
    for folder in (".", "/"):
        with pytest.raises(UsageError, match="it is a folder"):
            tables.write_csv(loaded.data, folder)
    with pytest.raises(UsageError) as told:
        tables.write_csv(loaded.data, tmp_path / "none" / "c.csv")
    assert str(told.value).endswith(
        "(No such file or directory); give --csv a file in a folder you may write."
    )


def test_pandas_is_asked_for_only_when_used(loaded: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pandas:
        DataFrame = staticmethod(lambda rows: ("frame", rows))

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: Pandas if name == "pandas" else real(name))
    assert loaded.to_pandas("steps") == ("frame", loaded.steps())
    assert loaded.to_pandas() == ("frame", loaded.to_rows())

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError) as told:
        loaded.to_pandas()
    assert str(told.value) == (
        "to_pandas() needs pandas, which is not installed; install it, or use to_rows(), a list of dicts."
    )
    with pytest.raises(UsageError, match="There is no table 'x'; give one of trials, precisions, steps"):
        loaded.to_pandas("x")  # type: ignore[arg-type]


def test_load_reads_only_its_own_schema(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text('{"schema": "other/1"}')
    with pytest.raises(UsageError, match=f"has schema 'other/1'; this version of halfstep reads '{SCHEMA}'"):
        load(tmp_path)
    with pytest.raises(UsageError, match=r"No comparison in .* \(No such file or directory\); give a folder"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "has schema None; this version"),
        ("\x00", "is not a comparison ("),
        (json.dumps({"schema": SCHEMA}), "is damaged: it has no program; run `halfstep compare` again."),
        (
            json.dumps(comparison(steps=8) | {"verdicts": {"fp32": 1}}),
            "is damaged: it has no verdicts; run `halfstep compare` again.",
        ),
    ],
)
def test_a_damaged_file_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(UsageError) as told:
        load(tmp_path)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_what_is_loaded_has_clean_text_and_finite_figures(tmp_path: Path) -> None:
    compared = hostile("\x1b[31mred\u202e")
    compared["schema"] = SCHEMA
    compared["verdicts"][2]["speed_ratio"]["value"] = math.nan
    compared["trials"][0]["step_times"][1] = "fast"
    (tmp_path / "comparison.json").write_text(json.dumps(compared))
    loaded = load(tmp_path)
    assert loaded.verdicts[2]["speed_ratio"] is None
    assert loaded.verdicts[2]["precision"] == loaded.recommendation["text"] == "red"
    assert len(loaded.trials[0]["step_times"]) == len(compared["trials"][0]["step_times"]) - 1
