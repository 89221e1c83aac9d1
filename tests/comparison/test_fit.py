"""The search for the largest batch: its bracket against trials that fit by rule, and against real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep import codec
from halfstep.comparison.fit import FINENESS, FIRST, FitOption, Search, fit_batch, parse_fit, parse_size
from halfstep.errors import UsageError
from halfstep.record import Record
from halfstep.trials import Job, Outcome, Trial

OPTION = FitOption("images", "--batch-size")


class Silent:
    def begin(self, label: str, steps: int | None) -> None: ...
    def advance(self, label: str, step: int, loss: float | None, seconds: float | None) -> None: ...
    def finish(self, label: str, status: str, words: str) -> None: ...


def found(
    answer: Callable[[str, int], tuple[str, int]], arguments: tuple[str, ...] = (), **job: Any
) -> dict[str, Any]:
    """A search in which a trial ends as ``answer(precision, batch)`` says: status, samples a step."""

    def run(job: Job, trial: Trial, on_step: Any) -> Outcome:
        status, samples = answer(trial.precision, OPTION.given(job.arguments) or 0)
        record = Record(Path("r"), sample={"samples": samples}, end={"peak_resident_bytes": 5})
        return Outcome(trial, status, "why", 0, record)  # type: ignore[arg-type]

    made = Job("train.py", arguments, False, Path("/folder"), **job)
    found: dict[str, Any] = codec.write(fit_batch(made, OPTION, ["fp32", "bf16"], Silent(), run))
    return found


@given(largest=st.integers(1, 10_000), first=st.integers(1, 5000))
def test_the_bracket_closes_on_the_largest_that_fits(largest: int, first: int) -> None:
    search, tried = Search(), 0
    while (batch := search.next(first)) is not None:
        if batch <= largest:
            search.fits = batch
        else:
            search.fails = batch
        tried += 1
    assert search.fits is not None
    assert search.fails is not None
    assert search.fits <= largest < search.fails
    assert search.fails - search.fits <= max(1, search.fits // FINENESS)
    assert tried <= 32


def test_each_precision_has_its_own_batch_and_the_ratio_to_the_first() -> None:
    rows = found(lambda p, n: ("ok" if n <= {"fp32": 100, "bf16": 200}[p] else "out_of_memory", n))["rows"]
    fp32, bf16 = rows
    assert 94 <= fp32["largest"] <= 100 < fp32["fails_at"]
    assert 188 <= bf16["largest"] <= 200 < bf16["fails_at"]
    assert bf16["ratio"] == bf16["largest"] / fp32["largest"]
    assert [trial["size"] for trial in fp32["trials"]][:5] == [8, 16, 32, 64, 128]
    assert FIRST == 8


def test_a_trial_that_fails_is_no_answer() -> None:
    rows = found(lambda p, n: ("ok" if n < 30 else "failed", n))["rows"]
    assert rows[0]["largest"] == 16
    assert rows[0]["fails_at"] is None
    assert rows[0]["reason"] == "the trial with 32 images: failed, why"


def test_an_option_that_changes_nothing_is_found_out() -> None:
    rows = found(lambda p, n: ("ok", 32))["rows"]
    assert rows[0]["reason"] == (
        "a step took 32 samples at --batch-size 8 and at 16: the program has no more data, "
        "or the option does not set its batch"
    )
    assert rows[0]["largest"] == 8


def test_not_even_one_fits() -> None:
    rows = found(lambda p, n: ("out_of_memory", n))["rows"]
    assert (rows[0]["largest"], rows[0]["reason"]) == (None, "even 1 did not fit")
    assert [trial["size"] for trial in rows[0]["trials"]] == [8, 4, 2, 1]


def test_a_peak_that_was_missed_while_it_ran_is_found_in_the_record() -> None:
    rows = found(lambda p, n: ("ok", n), memory_limit=4)["rows"]
    assert rows[0]["largest"] is None
    assert rows[0]["trials"][0]["reason"] == "its resident memory came to 5 bytes, over the limit of 4"


def test_the_search_begins_at_the_programs_own_batch() -> None:
    rows = found(lambda p, n: ("ok" if n < 70 else "out_of_memory", n), ("--batch-size=48",))["rows"]
    assert [trial["size"] for trial in rows[0]["trials"]][:2] == [48, 96]


@pytest.mark.parametrize(
    ("given_", "made"),
    [
        (("--lr", "1"), ("--lr", "1", "--batch-size", "64")),
        (("--batch-size", "8", "--lr", "1"), ("--batch-size", "64", "--lr", "1")),
        (("--batch-size=8", "x"), ("--batch-size=64", "x")),
    ],
)
def test_the_batch_takes_its_place_in_the_arguments(given_: tuple[str, ...], made: tuple[str, ...]) -> None:
    assert OPTION.into(given_, 64) == made


def test_an_assignment_is_an_option_too() -> None:
    assert FitOption("images", "train.batch").into(("train.batch=2", "a=b"), 64) == ("train.batch=64", "a=b")
    assert FitOption("images", "train.batch").into((), 64) == ("train.batch=64",)


def test_both_spellings() -> None:
    assert parse_fit("images=--batch-size") == OPTION
    assert parse_fit("--batch-size") == FitOption("batch", "--batch-size")
    for wrong in ("", "images=", "--batch-size=64", "=--b"):
        with pytest.raises(UsageError) as caught:
            parse_fit(wrong)
        assert str(caught.value) == (
            f"--fit-batch was given {wrong!r}; give the program's own option for the batch, with what it counts: "
            "--fit-batch images=--batch-size, or --fit-batch --batch-size."
        )


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("2G", 2**31), ("800MB", 800_000_000), ("1.5 MiB", 3 * 2**19), ("64", 64), ("64B", 64)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "0GiB", "-1G"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert str(caught.value) == f"--memory-limit was given {text!r}; give a size such as 2GiB or 800MB."
