"""Shares, headroom and loss scales from counts of exponents, against the exact numbers that were counted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halfstep import codec
from halfstep.diagnosis import diagnose, run
from halfstep.diagnosis.evidence import Case, Numbers
from halfstep.diagnosis.layers import _range, overall
from halfstep.diagnosis.model import Finding, LayerRow, Remedy
from halfstep.diagnosis.run import with_outcome
from halfstep.diagnosis.shares import serving, shares
from halfstep.errors import UsageError
from halfstep.precisions.recipes import parse
from halfstep.record import Record
from halfstep.report.words.diagnosis import outcome_words, worded
from halfstep.trials import Job, Outcome, Trial


def counted(values: np.ndarray) -> Numbers:
    """The numbers by exponent, as the watch counts them: frexp's exponent is one above."""
    finite = np.abs(values[values != 0])
    exponents, counts = np.unique(np.frexp(finite)[1] - 1, return_counts=True)
    zeros = {-127: int((values == 0).sum())}
    by = {int(e): int(c) for e, c in zip(exponents, counts, strict=True)}
    return Numbers(by | zeros, float(finite.max(initial=0.0)), values.size, values.size, "fp32")


@pytest.fixture(scope="module")
def spread() -> np.ndarray:
    """Magnitudes from 2^-40 to 2^20, and some zeros."""
    random = np.random.default_rng(0)
    values = 2.0 ** random.uniform(-40, 20, 20_000) * random.choice([-1, 1], 20_000)
    values[:500] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**-6])
def test_shares_are_those_of_numpys_own_cast(spread: np.ndarray, scale: float) -> None:
    found = shares(counted(spread), "fp16", scale)
    nonzero = spread[spread != 0].astype(np.float64) * scale
    with np.errstate(over="ignore"):
        cast = np.abs(nonzero.astype(np.float16).astype(np.float64))
    # Of the bins at the edges only the outermost numbers fall on the other side: 2^-25 itself, and above 65520.
    edge = (np.abs(nonzero) >= 65520) & (np.abs(nonzero) < 65536)
    assert found.flushed == pytest.approx((cast == 0).mean(), abs=1e-12)
    assert found.subnormal == pytest.approx(((cast > 0) & (np.abs(nonzero) < 2.0**-14)).mean(), abs=1e-12)
    assert found.overflowing == pytest.approx((np.isinf(cast) & ~edge).mean(), abs=1e-12)
    assert found.headroom == pytest.approx(math.log2(65504) - math.log2(np.abs(nonzero).max()))


def test_what_is_lost_weighs_numbers_by_their_size() -> None:
    values = np.array([1.0] * 1 + [2.0**-30] * 99, dtype=np.float32)
    found = shares(counted(values), "fp16")
    assert found.flushed == 0.99
    assert found.lost == pytest.approx(99 * 2.0**-30)


def test_a_scale_that_serves_neither_overflows_nor_loses(spread: np.ndarray) -> None:
    gradients = counted((spread * 1e-9).astype(np.float32))
    low, high = serving(gradients, "fp16") or (0.0, 0.0)
    assert low <= high
    assert shares(gradients, "fp16", low).lost <= 0.01 < shares(gradients, "fp16", low / 2).lost or low == 1
    assert gradients.largest * high <= 65504 < gradients.largest * high * 2
    assert serving(counted(np.zeros(4, dtype=np.float32)), "fp16") is None


def test_bf16_flushes_none_of_them(spread: np.ndarray) -> None:
    found = shares(counted(spread), "bf16")
    assert (found.flushed, found.subnormal, found.overflowing) == (0, 0, 0)


def test_a_remedy_works_only_if_the_finding_is_gone_and_the_loss_is_finite() -> None:

    finding = Finding("overflow", 90, "a", fault="precision", evidence="it is")
    steps = [{"step": 0, "loss": 0.5}]
    done = Outcome(Trial("bf16"), "ok", "", 0, Record(Path("r"), steps=steps))
    assert tried(finding, done, []) == (True, "the finding is gone; loss 0.5 after 1 step")
    assert tried(finding, done, [finding]) == (False, "the same finding is left: it is")
    other = replace(finding, where="b")
    assert tried(finding, done, [other]) == (False, "overflow in b instead")
    lost = Outcome(
        Trial("bf16"), "diverged", "the loss was nan from step 1 on", 0, Record(Path("r"), steps=steps)
    )
    assert tried(finding, lost, []) == (False, "the loss was nan from step 1 on")


def tried(finding: Finding, outcome: Outcome, left: list[Finding]) -> tuple[bool | None, str]:
    way = with_outcome(Remedy(), finding, outcome, left)
    return way.works, outcome_words(way, finding)


def origin(dtype: str, exact: float | None) -> dict[str, Any]:
    """An infinity in the first step, where a number was to be stored."""
    return {
        "event": "watch", "what": "origin", "step": 0, "at": 1, "module": "body", "operation": "mul",
        "direction": "forward", "of": "", "domain": None, "from_infinity": False, "dtype": dtype, "exact": exact,
        "infinite": 3, "nan": 0, "elements": 9, "inputs": [{"largest": 2.0}], "scale": 1.0,
    }  # fmt: skip


def watched(dtype: str, exact: float | None = 1e6, weights: str = "fp32") -> Record:
    record = Record(Path("r"))
    record.add({"event": "step", "step": 0, "loss": "inf", "skipped": False})
    record.add({"event": "stored", "weights": {weights: 8}})
    record.add(origin(dtype, exact))
    return record


def findings(precision: str, tried: Record, reference: Record | None) -> Any:
    """As JSON has them."""
    return codec.write(worded(diagnose(precision, tried, reference)).findings)


@pytest.mark.parametrize(("computed_in", "too"), [("fp32", True), ("fp16", False)])
def test_a_reference_that_ran_in_16_bits_says_nothing_of_fp32(computed_in: str, too: bool) -> None:
    """Whatever was asked of it: its infinity is fp16's where it was computed in fp16."""
    (found,) = findings("fp16", watched("fp16"), watched(computed_in))
    assert ("fp32 does the same" in found["evidence"]) == too
    assert found["fault"] == ("model" if too else "precision")


@pytest.mark.parametrize(
    ("reached", "recipe"), [(1e6, "bf16"), (float(np.finfo(np.float32).max), "fp32"), (None, "bf16")]
)
def test_a_number_beyond_bf16_is_not_cured_by_bf16(reached: float | None, recipe: str) -> None:
    """bf16's largest number is 3.3895e38, fp32's 3.4028e38."""
    (found,) = findings("fp16", watched("fp16", reached), None)
    assert found["remedies"][0]["recipe"] == recipe


def test_weights_that_the_program_holds_in_16_bits_are_to_be_loaded_in_fp32() -> None:
    (found,) = findings("as-is", watched("fp16", weights="fp16"), watched("fp16", weights="fp16"))
    assert "not precision's fault" not in found["evidence"]
    assert (found["remedies"][0]["recipe"], "model.float()" in found["remedies"][0]["text"]) == ("fp32", True)


def test_updates_that_a_scripts_own_16_bit_weights_lose_are_cured_by_fp32_weights() -> None:
    record = Record(Path("r"))
    record.add({"event": "step", "step": 0, "loss": 1.0, "skipped": False})
    record.add({"event": "stored", "weights": {"bf16": 8}})
    record.add({
        "event": "watch", "what": "update", "step": 0, "at": 1, "parameter": "body.weight", "module": "body",
        "optimizer": "AdamW", "dtype": "bf16", "lost": 9, "due": 10,
    })  # fmt: skip
    (found,) = findings("as-is", record, None)
    assert found["kind"] == "lost_update"
    assert (found["remedies"][0]["recipe"], "model.float()" in found["remedies"][0]["text"]) == ("fp32", True)


class Quiet:
    def plan(self, trials: Any) -> None: ...
    def begin(self, label: str, steps: int | None) -> None: ...
    def advance(self, *figures: Any) -> None: ...
    def finish(self, label: str, status: str, words: str) -> None: ...


def test_a_program_that_a_format_stops_at_once_is_tried_with_modules_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no step to diagnose; the sentence says whether the cure that it names is one."""
    message = "RuntimeError: Index put requires the source and destination dtypes match"
    tried: list[str] = []

    def run_trial(job: Job, trial: Trial, on_step: Any) -> Outcome:
        tried.append(trial.precision)
        record = Record(Path("r"), start={"precision": trial.precision})
        if "keep" in trial.precision:
            record.add({"event": "step", "step": 0, "loss": 1.0})
            return Outcome(trial, "ok", "", 0, record)
        record.end |= {"reason": message, "raised_at": {"place": "train.py:3", "modules": ["enc", "head"]}}
        return Outcome(trial, "failed", message, 1, record)

    monkeypatch.setattr(run, "run_trial", run_trial)
    question = run.Question(Job("train.py", (), False, Path("out")), "bf16", 6, False)
    with pytest.raises(UsageError) as caught:
        run.run_diagnosis(question, Quiet())
    assert str(caught.value) == (
        f"The program fails in bf16 before its first step: {message}. Tried: in bf16:keep=enc,head it makes 1 step."
    )
    assert tried == ["bf16", "bf16:keep=enc,head"]


def test_the_scale_that_serves_a_layer_serves_its_weights_too() -> None:
    """Gradients of 1 and less inside the graph, and of 2^20 for the weights: those fit into fp16 under 2^-5 at most."""
    both = {
        ("net", "activations"): replace(counted(np.ones(4, dtype=np.float32)), dtype="fp16"),
        ("net", "gradients"): counted(np.array([1.0, 0.5], dtype=np.float32)),
        ("net", "weight_gradients"): counted(np.array([2.0**20], dtype=np.float32)),
    }
    tried = SimpleNamespace(numbers=both, scale=1.0)
    case = Case(parse("fp16"), tried, None)  # type: ignore[arg-type]
    found = _range(case, "net")
    assert found is not None
    assert found.high == 2.0**-5
    scales = overall(case, [LayerRow(loss_scale=found)])
    assert scales is not None
    assert scales.advised == 2.0**-6


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_where_one_module_kept_moves_the_overflow_on_the_next_are_kept_too(
    monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    """Every block overflows; two may be kept beside the first."""

    def finding(n: int) -> Finding:
        ways = (Remedy("keep", "fp16:keep=b.0", None), Remedy("use bf16", "bf16", None))
        return Finding(kind="overflow", where=f"b.{n}", fault="precision", remedies=ways)

    def run_trial(job: Job, trial: Trial, on_step: Any) -> Outcome:
        record = Record(Path("r"), start={"precision": trial.precision})
        record.add({"event": "step", "step": 0, "loss": 1.0})
        return Outcome(trial, "ok", "", 0, record)

    def diagnosed(precision: str, *records: Any) -> Any:
        kept = parse(precision).keep
        bad = [] if precision == "bf16" else [n for n in range(blocks) if f"b.{n}" not in kept]
        return SimpleNamespace(findings=tuple(map(finding, bad[:1])))

    monkeypatch.setattr(run, "run_trial", run_trial)
    monkeypatch.setattr(run, "diagnose", diagnosed)
    question = run.Question(Job("train.py", (), False, Path("out")), "fp16", 6, True)
    (found,) = run._try_remedies(question, [finding(0)], None, Quiet())
    kept = [(way.recipe, way.works) for way in found.remedies]
    more = {2: [("fp16:keep=b.0,b.1", True)], 3: [("fp16:keep=b.0,b.1,b.2", True)], 4: []}[blocks]
    assert kept == [("fp16:keep=b.0", False), ("bf16", True), *more]
