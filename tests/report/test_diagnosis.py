"""The diagnosis in a terminal of any width, and as a page: nothing is lost, nothing of the program's text is run."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from halfstep import codec
from halfstep.diagnosis.model import Change, Diagnosis, Kind, LayerPart
from halfstep.report import diagnosis, diagnosis_page
from halfstep.report.diagnosis_spark import HIGH, LOW, binned, spark
from halfstep.report.words import diagnosis as words

from .sample import DROPPED, damaged, paths

EVIL = "<script>alert(1)</script>\x1b[31m"


def part(
    exponents: dict[str, int], format: str = "fp16", scale: float = 1.0, **fields: float
) -> dict[str, Any]:
    shares = {"flushed": 0.0, "subnormal": 0.0, "overflowing": 0.0, "headroom": 3.0}
    return {"exponents": exponents, "format": format, "scale": scale, **shares, **fields}


def sample(findings: int = 1, layers: int = 30) -> dict[str, Any]:
    ways = [
        {"text": "use bf16, which has the range of fp32", "recipe": "bf16", "works": True, "outcome": "the finding is gone"},
        {"text": EVIL, "recipe": None, "works": None, "outcome": ""},
    ]  # fmt: skip
    finding = {
        "kind": "overflow", "where": "blocks.3.attn", "operation": "bmm", "direction": "forward", "step": 4, "fault": "precision",
        "evidence": "reaches 1.2e+05; fp16 ends at 65504", "source": "train.py:52", "code": EVIL, "also": [], "remedies": ways,
    }  # fmt: skip
    rows = [
        {
            "module": f"blocks.{n}.attn", "type": "Attention", "loss_scale": {"low": 1.0, "high": 2.0**20},
            "activations": part({"-3": 10, "0": 5}), "gradients": part({"-30": 100, "-20": 50}, flushed=2 / 3),
        }
        for n in range(layers)
    ]  # fmt: skip
    return {
        "program": {"command": ["train.py", "--lr", "1"]}, "precision": "fp16", "steps": 20, "skipped_steps": 3,
        "ran_as": "fp16", "findings": [finding] * findings, "layers": rows, "reference": {"steps": 20},
        "loss_scale": {"low": 1.0, "high": 4096.0, "serves_all": True, "advised": 2048.0}, "notes": [EVIL],
    }  # fmt: skip


def printed(raw: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(diagnosis.view(raw, Path("out/diagnosis.html")))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_kind_of_finding_and_every_change_has_its_words() -> None:
    assert set(get_args(Kind)) == set(words.KIND_WORDS)
    assert set(get_args(Change)) == set(words._CHANGES)


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(width: int) -> None:
    text = printed(sample(), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for said in ("1 finding in 20 steps in fp16, 3 of them skipped", "overflow in blocks.3.attn, bmm, forward, step 5",
                 "reaches 1.2e+05; fp16 ends at 65504", "works: use bf16", "1 to 4,096 serves every layer"):  # fmt: skip
        assert said in words
    assert "\x1b" not in text


def test_layers_of_findings_come_before_all_others() -> None:
    text = printed(sample(layers=40), 160)
    assert "blocks.3.attn  " in text
    assert "26 layers more in the page and the JSON." in " ".join(text.split())


@pytest.mark.parametrize(
    ("works", "command"),
    [
        (True, "halfstep compare --precisions fp32,bf16 train.py --lr 1"),
        (None, "halfstep diagnose --precision fp16 --try-remedies train.py --lr 1"),
    ],
)
def test_the_next_command(works: bool | None, command: str) -> None:
    raw = sample()
    raw["findings"][0]["remedies"][0]["works"] = works
    assert diagnosis.next_command(codec.read(Diagnosis, raw)) == command


def test_without_findings_the_next_is_a_comparison() -> None:
    raw = sample(findings=0)
    assert (
        diagnosis.next_command(codec.read(Diagnosis, raw))
        == "halfstep compare --precisions fp32,fp16 train.py --lr 1"
    )
    assert (
        diagnosis.headline(codec.read(Diagnosis, raw))
        == "Nothing wrong was found with the numbers of 20 steps in fp16."
    )


def test_a_bar_has_its_numbers_and_its_colour() -> None:
    width = HIGH - LOW
    row = codec.read(LayerPart, part({"-30": 100, "-20": 50, "0": 10, "20": 5, "-127": 9, "128": 3}))
    bars = {round(exponent - 0.5): count for exponent, count in binned(row, width) if count}
    assert bars == {-30: 100, -20: 50, 0: 10, 20: 5}
    line = spark(row, width)
    colours = {LOW + span.start: span.style for span in line.spans}
    assert [colours[e] for e in (-30, -20, 0, 20)] == ["red", "yellow", "green", "red"]


def test_the_loss_scale_shifts_the_bars() -> None:
    row = codec.read(LayerPart, part({"-30": 1}, scale=1024.0))
    assert [e for e, count in binned(row, HIGH - LOW) if count] == [-19.5]


def test_the_heat_map_has_every_layer_and_the_formats_edges() -> None:
    figure = diagnosis_page.heat_map(codec.read(Diagnosis, sample(layers=3)), "gradients")
    assert figure is not None
    (trace,) = figure["data"]
    assert len(trace["z"]) == 3
    row = dict(zip(trace["x"], trace["customdata"][0], strict=True))
    assert (row[-30], row[-20]) == (pytest.approx(100 * 2 / 3), pytest.approx(100 / 3))
    # fp16: zero below 2^-25, normal from 2^-14, overflow beyond 2^15; lines stand between bins.
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [-25.5, -14.5, 15.5]
    assert "weights" not in diagnosis_page.figures(codec.read(Diagnosis, sample()))


def test_numbers_whose_scales_follow_them_have_no_edges() -> None:
    raw = sample(layers=2)
    for row in raw["layers"]:
        row["gradients"] |= {"format": "mxfp4", "scaled": True}
    figure = diagnosis_page.heat_map(codec.read(Diagnosis, raw), "gradients")
    assert figure is not None
    assert figure["layout"]["shapes"] == []
    assert "2/3" not in printed(raw, 160)
    assert "66.7%" in printed(raw, 160)
    page = diagnosis_page.render(raw | {"precision": "mxfp4"})
    assert "The scales of mxfp4 follow the numbers" in page


def test_the_page_escapes_what_the_program_says_and_fetches_nothing() -> None:
    page = diagnosis_page.render(sample())
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src &#39;none&#39;" in page
    assert 'src="http' not in page


WAYS = paths(sample(layers=2))
PARTS = [DROPPED, None, "x", -1, 0, math.nan, 10**400, True, [], {}, [None], {"a": 1}, {"3": -1}]


@settings(max_examples=40)
@given(hits=st.lists(st.tuples(st.sampled_from(WAYS), st.sampled_from(PARTS)), max_size=8))
def test_a_damaged_diagnosis_is_drawn_as_far_as_it_goes(hits: list[tuple[tuple[Any, ...], Any]]) -> None:
    raw = sample(layers=2)
    for way, value in hits:
        raw = damaged(raw, way, value)
    assert printed(raw, 100)
    assert "</html>" in diagnosis_page.render(raw)


def test_a_format_that_is_none_is_drawn_as_fp32() -> None:
    raw = sample(layers=2)
    raw["layers"][0]["gradients"]["format"] = EVIL
    assert "blocks.0.attn" in printed(raw, 100)
