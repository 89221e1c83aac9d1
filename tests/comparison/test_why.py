"""The reasons why a precision does not pay, from made-up trials whose causes are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halfstep import codec
from halfstep.comparison.model.trials import TrialRow
from halfstep.comparison.model.verdicts import PrecisionRow
from halfstep.comparison.why import why as explained
from halfstep.record.ran import Ran
from halfstep.report.words.comparison import sentence
from halfstep.report.words.explanations import no_faster_words, no_smaller_words

MIB = 2**20


def why(
    row: dict[str, Any], own: list[tuple[int, dict[str, Any]]], base: list[tuple[int, dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """The lists of reasons as JSON has them, from a row and trials as JSON has them."""
    ours, theirs = ([(i, codec.read(TrialRow, each)) for i, each in side] for side in (own, base))
    made = explained(codec.read(PrecisionRow, row), ours, theirs)
    entries = {"why_no_faster": no_faster_words, "why_memory": no_smaller_words}
    told: Any = {
        name: tuple(sentence(replace(e, text=said(e, made, ours, theirs))) for e in getattr(made, name))
        for name, said in entries.items()
    }
    found: dict[str, Any] = codec.write(replace(made, **told))
    return {name: found[name] for name in ("why_no_faster", "why_memory")}


def trial(shares: dict[str, float] | None, seconds: float = 0.1, **fields: Any) -> dict[str, Any]:
    return {
        "time_shares": shares,
        "time_shares_absent": None if shares else "the script's own profiler was running",
        "step_seconds": {"median": seconds},
        "odd_size_share": 0.0,
        "profiled_step": {"device": "cpu", "operations": 900, "median_operation_seconds": 4e-6},
        "memory": None,
        "memory_absent": "no step was sampled",
        "peak_memory_bytes": None,
        "workspace_absent": "on a CPU",
        **fields,
    }


def verdict(
    speed: float | None = 1.0, memory: float | None = None, significant: bool = False
) -> dict[str, Any]:
    return {
        "precision": "bf16",
        "baseline": "fp32",
        "ran_as": "bf16, native units",
        "step_time": {"median": 0.1},
        "speed_ratio": None if speed is None else {"value": speed, "significant": significant},
        "memory_ratio": None if memory is None else {"value": memory, "significant": True},
    }


BASE = [(0, trial({"products": 0.25, "other": 0.55, "optimizer": 0.2}))]


def texts(entries: list[dict[str, Any]]) -> str:
    return "\n".join(entry["text"] for entry in entries)


def test_shares_are_the_trials_mean_largest_first_and_sum_to_the_step() -> None:
    own = [
        (1, trial({"products": 0.2, "other": 0.5, "casts": 0.3})),
        (3, trial({"products": 0.2, "other": 0.4, "casts": 0.2, "host": 0.2})),
    ]
    found = why(verdict(), own, BASE)["why_no_faster"]
    shares = [entry["share"] for entry in found if entry["share"] is not None]
    assert shares == pytest.approx([0.45, 0.25, 0.2, 0.1])
    assert sum(shares) == pytest.approx(1)
    assert found[0] == {
        "text": "Other operations: norms, activations, sums, copies: 45.0 ms of 100 ms (fp32: 55.0 ms)",
        "share": pytest.approx(0.45),
        "evidence": "trials[1].time_shares.other",
        "share_low": 0.4,
        "share_high": 0.5,
    }
    assert "share_low" not in why(verdict(), own[:1], BASE)["why_no_faster"][0]  # of one trial no range
    assert "Casts from one format to another: 25.0 ms of 100 ms (fp32: none)" in texts(found)


def test_amdahls_law_says_what_could_be_had() -> None:
    found = why(verdict(), [(1, trial({"products": 1.0}))], BASE)["why_no_faster"]
    assert (
        "Products are 25% of a step in fp32: if they took no time, it would be 1.33× faster at most."
        in texts(found)
    )


def test_odd_sizes_missing_units_and_small_operations_are_said_where_they_are() -> None:
    own = [(1, trial({"products": 0.6, "host": 0.4}, odd_size_share=0.375))]
    odd = "38% of the products' FLOPs have a side that is no multiple of 8, which matrix units pad."
    said = texts(why(verdict(), own, BASE)["why_no_faster"])
    assert odd in said
    assert "Small operations: 900 in a step, 4.00 µs each at the median" in said
    slow = verdict() | {"ran": codec.write(Ran(products={"bf16": 1.0}, fp32_units=("product",)))}
    said = texts(why(slow, own, BASE)["why_no_faster"])
    assert "No units for it here: products in fp32 units, which take as long as in fp32." in said
    software = verdict() | {"ran": codec.write(Ran(products={"bf16": 1.0}, software="PyTorch"))}
    slower = texts(why(software, own, BASE)["why_no_faster"])
    assert (
        "No units for it here: PyTorch computes these products in software, more slowly than in fp32."
        in slower
    )
    assert odd not in said + slower
    quiet = texts(why(verdict(), [(1, trial({"products": 0.9, "host": 0.1}))], BASE)["why_no_faster"])
    assert not any(word in quiet for word in ("multiple of 8", "No units", "Small operations"))


def test_an_idle_gpu_waits_for_the_host() -> None:
    step = {"device": "cuda", "operations": 2000, "median_operation_seconds": 3e-6}
    found = why(verdict(), [(1, trial({"host": 0.8, "products": 0.2}, profiled_step=step))], BASE)
    assert found["why_no_faster"][0]["text"] == (
        "The GPU idle, waiting for the host to launch work: 80.0 ms of 100 ms (fp32: none)"
    )
    assert "Small kernels: 2,000 in a step" in texts(found["why_no_faster"])


@pytest.mark.parametrize(
    ("speed", "significant", "told"),
    [(None, False, False), (2.0, True, False), (1.2, True, True), (2.0, False, True), (0.7, True, True)],
)
def test_only_what_does_not_pay_is_explained(speed: float | None, significant: bool, told: bool) -> None:
    found = why(verdict(speed, significant=significant), [(1, trial({"products": 1.0}))], BASE)
    assert bool(found["why_no_faster"]) == told


@pytest.mark.parametrize("status", ["out_of_memory", "failed", "interrupted"])
def test_what_did_not_run_to_its_end_is_not_explained(status: str) -> None:
    own = [(1, trial({"products": 1.0}, memory=parts(30, 20), peak_memory_bytes=240 * MIB))]
    assert why(verdict(0.7, memory=1.2) | {"status": status}, own, BASE) == {
        "why_no_faster": [],
        "why_memory": [],
    }
    assert all(why(verdict(0.7, memory=1.2) | {"status": "timed_out"}, own, BASE).values())


def test_what_was_not_profiled_has_its_reason() -> None:
    found = why(verdict(), [(1, trial(None))], BASE)["why_no_faster"]
    assert found[0]["text"] == "Where the time went is not known: the script's own profiler was running."


def parts(activations: int, casts: int) -> dict[str, int]:
    persistent = {"weights": 40 * MIB, "gradients": 40 * MIB, "optimizer": 80 * MIB}
    return persistent | {"activations": activations * MIB, "casts": casts * MIB}


def test_why_memory_did_not_fall() -> None:
    base = [(0, trial(None, memory=parts(60, 0), peak_memory_bytes=250 * MIB))]
    own = [(1, trial(None, memory=parts(30, 20), peak_memory_bytes=240 * MIB))]
    found = why(verdict(None, memory=0.96), own, base)["why_memory"]
    assert [entry["text"] for entry in found] == [
        "Weights, gradients and optimizer state: 160 MiB, as in fp32: mixed precision keeps them in fp32",
        "Activations kept for the backward pass: 30.0 MiB (fp32: 60.0 MiB)",
        "The rest of the resident set: data, code, libraries, the allocator's reserve, workspace: 30.0 MiB",
        "16-bit copies of the weights, in autocast's cache: 20.0 MiB",
    ]
    assert sum(entry["share"] for entry in found) == pytest.approx(1)
    assert found[1]["evidence"] == "trials[1].memory.activations"
    assert why(verdict(None, memory=0.8), own, base)["why_memory"] == []
