"""Reads a comparison or a diagnosis back from its folder, for reports, notebooks and other programs."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Literal, overload

from halfstep import codec
from halfstep.codec import JsonObject
from halfstep.comparison import tables
from halfstep.comparison.model import comparison as model
from halfstep.comparison.model.comparison import SCHEMA
from halfstep.comparison.requirements import Term, Unmet, exit_code, judge, parse_requirements
from halfstep.diagnosis.loading import stored as diagnoses
from halfstep.diagnosis.model import Diagnosis as DiagnosisValue
from halfstep.errors import UsageError
from halfstep.files import read_json
from halfstep.options import StrPath
from halfstep.report.compared import rebuilt
from halfstep.report.secret_values import mask
from halfstep.report.words.requirements import requirement_words
from halfstep.words.plural import count
from halfstep.words.safe_text import clean

Table = Literal["trials", "precisions", "steps"]


class Comparison:
    """A comparison read back from its folder: ``data`` is the object that ``--json`` writes."""

    def __init__(self, data: JsonObject, folder: Path) -> None:
        self.data = data
        self.folder = folder

    @property
    def trials(self) -> list[JsonObject]:
        """One row per trial."""
        return list(self.data["trials"])

    @property
    def verdicts(self) -> list[JsonObject]:
        """One row per precision."""
        return list(self.data["verdicts"])

    @property
    def recommendation(self) -> JsonObject:
        """Which precision to use, the reasons, and the lines that make it permanent."""
        return dict(self.data["recommendation"])

    def require(self, *required: str | Term) -> list[str]:
        """Whether the requirements hold, one sentence each.

        Args:
            required: as ``--require`` takes it, e.g. ``"bf16: no worse, speed >= 1.2"``.

        Raises:
            Unmet: something does not hold (``exit_code`` 1), or the data cannot tell (3).
            UsageError: a text that is no requirement.
        """
        terms = [
            t for each in required for t in (parse_requirements([each]) if isinstance(each, str) else (each,))
        ]
        if not terms:
            return []
        found = codec.read(model.Comparison, self.data)
        judged = judge(terms, found)
        said = {each: requirement_words(each, found) for each in judged}
        if exit_code(judged):
            raise Unmet([said[each] for each in judged if each.answer != "holds"], exit_code(judged))
        return list(said.values())

    def table(self) -> list[JsonObject]:
        """One flat row per precision: figures, ends of intervals and verdicts; None where absent."""
        return tables.precisions(self.data)

    def to_rows(self) -> list[JsonObject]:
        """One flat row per trial."""
        return tables.trials(self.data)

    def steps(self) -> list[JsonObject]:
        """One row for each step and figure of each trial: precision, seed, repeat, step, figure, value."""
        return tables.steps(self.data)

    def to_pandas(self, table: Table = "trials") -> Any:
        """A table as a ``pandas.DataFrame``.

        Raises:
            UsageError: pandas is not installed, or there is no such table.
        """
        made = {"trials": self.to_rows, "precisions": self.table, "steps": self.steps}
        if table not in made:
            raise UsageError(f"There is no table {table!r}; give one of {', '.join(made)}.")
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise UsageError(
                "to_pandas() needs pandas, which is not installed; install it, or use to_rows(), a list of dicts."
            ) from None
        return pandas.DataFrame(made[table]())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from halfstep.report.notebook import render

        return render(self.data)

    def __repr__(self) -> str:
        command = " ".join(mask(list(map(str, self.data["program"]["command"]))))
        return clean(f"<halfstep comparison of {command}: {self.recommendation['text']}>")


class Diagnosis:
    """A diagnosis read back from its folder: ``data`` is the object that ``--json`` writes."""

    def __init__(self, data: JsonObject, folder: Path) -> None:
        self.data = data
        self.folder = folder

    @property
    def findings(self) -> list[JsonObject]:
        """What is wrong numerically, the worst first, with the remedies."""
        return list(self.data["findings"])

    @property
    def layers(self) -> list[JsonObject]:
        """One row per layer: its numbers, and what the precision does to them."""
        return list(self.data["layers"])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from halfstep.report.notebook import render_diagnosis

        return render_diagnosis(self.data)

    def __repr__(self) -> str:
        command = " ".join(mask(list(map(str, self.data["program"]["command"]))))
        found = count(len(self.findings), "finding")
        return clean(f"<halfstep diagnosis of {command} in {self.data['precision']}: {found}>")


@overload
def load(folder: StrPath, what: Literal["comparison"] = "comparison") -> Comparison: ...
@overload
def load(folder: StrPath, what: Literal["diagnosis"]) -> Diagnosis: ...
def load(folder: StrPath, what: Literal["comparison", "diagnosis"] = "comparison") -> Comparison | Diagnosis:
    """Read what ``halfstep compare --out FOLDER`` or ``halfstep diagnose --out FOLDER`` wrote.

    Args:
        folder: where it is. If there is no ``comparison.json``, the comparison is made from its records.
        what: ``"comparison"`` or ``"diagnosis"``; if a comparison's folder has several diagnoses, the first.

    Raises:
        UsageError: there is none, or it has another schema, or is damaged.
    """
    if what == "comparison":
        return _comparison(folder)
    if what != "diagnosis":
        raise UsageError(f"halfstep.load() was asked for {what!r}; it reads a comparison or a diagnosis.")
    found = diagnoses(Path(folder))
    if not found:
        raise UsageError(
            f"No diagnosis in {os.fspath(folder)!r}; give a folder that `halfstep diagnose --out` wrote."
        )
    return Diagnosis(codec.write(codec.read(DiagnosisValue, found[0])), Path(folder))


def _comparison(folder: StrPath) -> Comparison:
    path = Path(folder) / "comparison.json"
    if not path.exists() and (path.parent / "request.json").exists():
        return rebuild(folder)
    try:
        raw = read_json(path)
    except OSError as error:
        raise UsageError(
            f"No comparison in {os.fspath(folder)!r} ({error.strerror}); give a folder that `halfstep compare --out` "
            "wrote."
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{str(path)!r} is not a comparison ({error}); run `halfstep compare` again."
        ) from None
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise UsageError(f"{str(path)!r} has schema {schema!r}; this version of halfstep reads {SCHEMA!r}.")
    if bad := [name for name, kind in _PARTS.items() if not isinstance(raw.get(name), kind)]:
        raise UsageError(f"{str(path)!r} is damaged: it has no {bad[0]}; run `halfstep compare` again.")
    return Comparison(codec.write(codec.read(model.Comparison, raw)), path.parent)


#: parts that every comparison has
_PARTS = {"program": dict, "trials": list, "verdicts": list, "recommendation": dict}


def rebuild(folder: StrPath) -> Comparison:
    """The comparison made again from the records in ``folder``, including trials that did not end.

    A folder without a ``request.json`` (an older one, or a single file moved there) is read by :func:`load`.
    """
    path = Path(folder)
    if not (path / "request.json").exists():
        return _comparison(folder)
    return Comparison(codec.write(rebuilt(path)), path)
