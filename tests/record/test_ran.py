"""What ran, from records whose figures are known, and the words that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halfstep import codec
from halfstep.comparison.model.trials import TrialRow
from halfstep.record import Record
from halfstep.record.ran import Ran
from halfstep.words.ran import in_force_words, words


def record(*events: dict[str, Any]) -> Record:
    found = Record(Path("record.jsonl"))
    for event in events:
        found.add(event)
    return found


def trial(
    asked: str,
    flops: dict[str, int] | None,
    weights: dict[str, int],
    reduced: dict[str, int] | None = None,
    sums: tuple[str, ...] = (),
    **takeover: Any,
) -> Ran:
    return Ran.of(
        record(
            {"event": "takeover", "asked": asked, "asked_weights": "fp32", **takeover},
            {"event": "sample", **({} if flops is None else {"matmul_flops": flops, "fp32_units": []})},
            {"event": "sample", "sums": list(sums)},
            {"event": "sample", **({} if reduced is None else {"reduced_bytes": reduced})},
            {"event": "stored", "weights": weights},
        )
    )


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        (trial("fp32", {"fp32": 7}, {"fp32": 4}), "fp32"),
        (trial("bf16", {"bf16": 98, "fp32": 2}, {"fp32": 4}), "bf16"),
        (trial("bf16", {"bf16": 62, "fp32": 38}, {"fp32": 4}), "62% bf16 and 38% fp32"),
        (trial("bf16", {"bf16": 38, "fp32": 62}, {"fp32": 4}), "62% fp32 and 38% bf16; bf16 was asked for"),
        (trial("fp32", {"fp64": 7}, {"fp64": 4}), "fp64, weights fp64; fp32 was asked for"),
        (trial("fp32", {"bf16": 7}, {"bf16": 4}), "bf16, weights bf16; fp32 was asked for"),
        (trial("fp32", {"fp32": 7}, {"bf16": 4}), "fp32, weights bf16; fp32 weights were asked for"),
        (trial("bf16", {"bf16": 7}, {"bf16": 90, "fp32": 10}), "bf16, weights bf16 + fp32"),
        (trial("bf16", {}, {"fp32": 4}), "no matrix products"),
        (trial("fp32", {"fp32": 7}, {"fp32": 4}, reduced={"fp32": 9}), "fp32"),
        (
            trial("fp32", {"fp32": 7}, {"fp32": 4}, reduced={"fp32": 1, "bf16": 99}),
            "fp32, gradients summed over ranks in bf16",
        ),
        (trial("", {"bf16": 7}, {"fp32": 4}), "bf16"),
        (trial("fp16", {"fp16": 7}, {"fp32": 4}, sums=("allow_fp16_reduced_precision_reduction",)), "fp16"),
        (trial("fp16", {"fp16": 7}, {"fp32": 4}, sums=("allow_fp16_accumulation",)), "fp16 summed in fp16"),
        (
            trial("fp16", {"fp16": 7}, {"fp32": 4}, software="TensorFlow"),
            "fp16, TensorFlow's own products in software",
        ),
        (
            trial("", {"fp16": 7}, {"fp32": 4}, software="PyTorch", software_formats=["fp16"]),
            "fp16, PyTorch's own products in software",
        ),
        (trial("", {"bf16": 7}, {"fp32": 4}, software="PyTorch", software_formats=["fp16"]), "bf16"),
        (
            trial(
                "fp8", {"fp8": 7}, {"fp32": 4}, emulated=True, described="fp8 (e4m3 forward, e5m2 backward)"
            ),
            "fp8 (e4m3 forward, e5m2 backward), emulated in fp32",
        ),
        (trial("bf16", {"fp32": 7}, {"fp32": 4}, software="TensorFlow"), "fp32; bf16 was asked for"),
        (trial("fp16", {"fp16": 7}, {"fp32": 4}, lists="cuda"), "fp16 with CUDA's autocast lists"),
        (trial("fp16", {"fp32": 7}, {"fp32": 4}, lists="cuda"), "fp32; fp16 was asked for"),
        (
            trial("bf16", None, {"fp32": 4}),
            "not measured (products are counted in the second step, which was not reached)",
        ),
    ],
)
def test_words_of_what_ran(ran: Ran, said: str) -> None:
    assert words(ran) == said


@pytest.mark.parametrize(
    ("planned", "used", "flops", "said"),
    [
        (["convolution", "product"], ["product"], {"fp16": 7}, "fp16, products in fp32 units"),
        (["transposed_convolution"], [], {"fp16": 7}, "fp16"),
        (["transposed_convolution"], None, {"fp16": 7}, "fp16"),
        (["convolution", "product"], None, {"fp16": 7}, "fp16, products in fp32 units"),
        (["convolution", "product"], [], {"fp64": 7}, "fp64; fp16 was asked for"),
        (
            ["short_attention_backward", "transposed_convolution"], ["short_attention_backward"], {"fp16": 7},
            "fp16, short attention backward in fp32 units",
        ),
    ],
)  # fmt: skip
def test_kinds_of_product_in_fp32_units_are_those_that_were_used(
    planned: list[str], used: list[str] | None, flops: dict[str, int], said: str
) -> None:
    sample = {"event": "sample", "matmul_flops": flops} | ({} if used is None else {"fp32_units": used})
    ran = Ran.of(record({"event": "takeover", "asked": "fp16", "fp32_units": planned}, sample))
    assert words(ran) == said
    assert ran.in_fp32_units == ("products" in said)


def test_two_run_the_same_where_formats_and_units_are_the_same() -> None:
    same = trial("fp32", {"fp64": 7}, {"fp64": 4}), trial("bf16", {"fp64": 7}, {"fp64": 4})
    assert same[0].same_as(same[1])
    other = [
        trial("bf16", {"bf16": 7}, {"fp64": 4}),
        trial("bf16", {"fp64": 7}, {"bf16": 4}),
        trial("bf16", None, {"fp64": 4}),
    ]
    assert not any(same[0].same_as(ran) for ran in other)
    assert same[0].same_as(trial("bf16", {"fp64": 7}, {"fp64": 4}, software="TensorFlow"))
    assert not other[0].same_as(trial("bf16", {"bf16": 7}, {"fp64": 4}, software="TensorFlow"))
    unknown = trial("fp32", None, {"fp64": 4})
    assert not unknown.same_as(unknown)


def test_it_is_read_back_from_json_as_it_was() -> None:
    ran = trial("bf16", {"bf16": 62, "fp32": 38}, {"bf16": 90, "fp32": 10})
    assert codec.read(Ran, codec.write(ran)) == ran
    assert codec.read(TrialRow, {"ran": None}).ran.unknown
    assert words(codec.read(Ran, {"products": {"fp32": 1.0}, "weights": 3, "fp32_units": None})) == "fp32"


def test_an_event_is_not_taken_on_trust() -> None:
    ran = Ran.of(
        record(
            {"event": "takeover", "asked": ["bf16"], "fp32_units": 3, "emulated": "yes"},
            {"event": "sample", "matmul_flops": {"fp32": float("nan"), "bf16": "x", "fp16": 2}},
            {"event": "region", "kind": 7},
        )
    )
    assert (ran.asked, ran.products, ran.region) == ("", {"fp16": 1.0}, "")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("layers", "bf16; the precision held for the loss too, as no model is called around the layers"),
        ("parameters", "bf16; the precision held for the loss too, as no module is called"),
        ("model", "bf16"),
        ("own", "bf16"),
        ("another", "bf16"),
    ],
)
def test_a_region_that_holds_the_loss_says_so(kind: str, said: str) -> None:
    sample = {"event": "sample", "matmul_flops": {"bf16": 1}}
    assert words(Ran.of(record({"event": "region", "kind": kind}, sample))) == said


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({}, "precision bf16 was in force"),
        ({"fp32": 8}, "precision bf16 was in force"),
        ({"fp64": 8}, "precision bf16 was in force, weights fp64; fp32 weights were asked for"),
        ({"fp32": 8, "bf16": 8}, "precision bf16 was in force, weights fp32 + bf16"),
    ],
)
def test_of_a_run_that_nobody_recorded_only_what_was_seen_is_said(weights: dict[str, int], said: str) -> None:
    assert in_force_words("bf16", trial("bf16", None, weights)) == said


def test_why_products_were_not_counted_is_said() -> None:
    sample = {"event": "sample", "absent": "the script profiles itself"}
    told = "precision bf16 was in force; what ran was not measured: the script profiles itself"
    assert in_force_words("bf16", Ran.of(record(sample))) == told
