"""The page: self-contained, nothing of the program's text run, every figure there."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstep.errors import UsageError
from halfstep.report import document, page, units
from halfstep.report.reading import read

from . import test_diagnosis as diagnosed
from .sample import DROPPED, comparison, damaged, hostile, metered, paths, replaced, untested

PWN = "document.documentElement.dataset.pwned=1"
PAYLOADS = [
    f"<script>{PWN}</script>",
    f"</script><script>{PWN}</script><!--",
    f'"><img src=x onerror="{PWN}">',
    f"'><svg onload='{PWN}'>",
    f"</style></title></textarea><img src=x onerror={PWN}>",
    f'<a href="javascript:{PWN}">n</a> {{{{ 7*7 }}}} {{% raw %}} %{{x}} \u2028\u2029 日本語 \x1b[31m \ud800',
]


class Seen(HTMLParser):
    """Every tag with its attributes, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = ["script"] if tag == "script" else ["style"] if tag == "style" else []
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = []

    def handle_data(self, data: str) -> None:
        if self._inside == ["script"]:
            self.scripts[-1] += data
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def sample() -> Seen:
    return Seen(page.render(comparison()))


def test_every_figure_is_there_with_its_interval(sample: Seen) -> None:
    for row in comparison()["verdicts"]:
        for key, unit in (
            ("step_time", "s"),
            ("speed_ratio", "×"),
            ("peak_memory", "B"),
            ("memory_ratio", "×"),
        ):
            if row[key]:
                value = row[key].get("value", row[key].get("median"))
                assert units.quantity(value, unit) in sample.text
                assert units.span(value, row[key]["low"], row[key]["high"], unit) in sample.text
        assert row["reason"] in sample.text
    assert comparison()["recommendation"]["adopt"]["code"].split("\n")[0] in sample.text
    assert all(entry["how"] in sample.text for entry in comparison()["method"])
    assert (
        "no energy counter: /sys/class/powercap holds no readable package domain every trial" in sample.text
    )


def test_the_verdict_comes_first(sample: Seen) -> None:
    assert (
        sample.text.index("Use bf16")
        < sample.text.index("Side by side")
        < sample.text.index("no energy counter")
    )


def test_evidence_leads_to_its_row(sample: Seen) -> None:
    links = {attrs["href"]: attrs["title"] for tag, attrs in sample.tags if tag == "a"}
    assert links.keys() == {"#verdicts-2", "#verdicts-4", "#trials-3"}
    assert links["#trials-3"] == "trials[3].ran_as", "the last of its entries"
    assert {link.removeprefix("#") for link in links if link} <= {attrs.get("id") for _, attrs in sample.tags}


def test_what_does_not_pay_is_explained_with_its_shares(sample: Seen) -> None:
    assert "Why fp16 gains little 69% Products as measured see row 17% Other as measured" in sample.text
    assert "Why fp16 needs hardly less memory 60% Activations as measured" in sample.text
    assert "Why bf16" not in sample.text


def test_an_energy_ratio_has_its_interval_beside_it() -> None:
    compared = metered(comparison())
    bf16 = next(row for row in compared["verdicts"] if row["precision"] == "bf16")
    bf16["energy_ratio"] |= {"value": 0.53, "low": 0.513, "high": 0.548}
    assert "0.530× (0.513–0.548×) of fp32’s" in words(compared)


def words(compared: dict[str, Any]) -> str:
    return " ".join(" ".join(Seen(page.render(compared)).words).split())


def test_undecided_advice_looks_undecided() -> None:
    compared = comparison()
    compared["recommendation"]["decided"] = False
    told = page.render(compared)
    assert '<span class="tag">for now</span>' in told
    assert '<span class="tag">advised</span>' not in told
    assert 'class="advised"' not in told


def test_what_has_no_interval_is_not_called_insignificant() -> None:
    compared = untested(comparison())
    told = words(compared)
    assert "no interval" in told
    assert "not significant" not in told.split("How each figure was measured")[0]


def test_what_needs_more_memory_is_not_said_to_need_less() -> None:
    compared = comparison()
    fp16 = next(row for row in compared["verdicts"] if row["precision"] == "fp16")
    fp16["memory_ratio"] |= {"value": 1.08, "low": 1.04, "high": 1.12, "significant": True}
    assert "Why fp16 needs no less memory" in words(compared)


def test_one_precision_has_no_difference_to_explain() -> None:
    compared = comparison()
    alone = compared["verdicts"][:1]
    only = [trial for trial in compared["trials"] if trial["precision"] == alone[0]["precision"]]
    assert "Below: the difference" in words(compared)
    assert "Below: the difference" not in words(compared | {"verdicts": alone, "trials": only})


def test_samples_a_second_have_the_interval_of_the_step_time() -> None:
    compared = comparison()
    trial = compared["trials"][0]
    trial |= {"samples_per_second": 100.0, "step_seconds": {"median": 0.08, "low": 0.064, "high": 0.1}}
    found = read(compared).trials[0].samples
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((100.0, 80.0, 125.0))
    assert "80–125" in page.render(compared)


def test_shares_have_the_range_of_the_trials() -> None:
    compared = comparison()
    entry = {"text": "Casts", "share": 0.25, "share_low": 0.2, "share_high": 0.3, "evidence": ""}
    compared["verdicts"][2]["why_no_faster"] = [entry]
    drawn = page.render(compared)
    assert '<span class="faint">20% to 30%</span>' in drawn
    assert "Beside a share: the lowest and the highest of the trials." in drawn
    assert "Beside a share" not in page.render(comparison())


def test_energy_is_shown_where_it_was_measured_and_else_its_absence() -> None:
    seen = Seen(page.render(metered(comparison()))).text
    assert "Energy per step" in seen
    assert "0.530× (0.500–0.560×) of fp32’s" in seen
    assert "The idle machine drew 61.5 W before the first trial." in seen
    assert "per sample" in seen
    bare = Seen(page.render(comparison())).text
    assert (
        "Energy Not measured: no energy counter: /sys/class/powercap holds no readable package domain" in bare
    )
    assert "Energy per step" not in bare


def test_the_largest_batches_stand_beside_the_trials_that_found_them() -> None:
    seen = Seen(page.render(metered(comparison()))).text
    assert "248 images, 1.94× 312 did not fit" in seen
    assert "at most 2.00 GiB of resident memory" in seen
    assert "even 1 did not fit" in seen
    assert "64: ok, 64.0 MiB; 128: ok, 128 MiB; 192: out of memory" in seen


@pytest.mark.parametrize("payload", PAYLOADS[:2])
def test_hostile_text_in_energy_and_batches_adds_no_element(payload: str) -> None:
    plain = Seen(page.render(metered(comparison(steps=8))))
    seen = Seen(page.render(metered(hostile(payload))))
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in plain.tags}
    assert sum(tag == "script" for tag, _ in seen.tags) == 4


def test_nothing_is_fetched(sample: Seen) -> None:
    own = "".join(
        value or ""
        for tag, attrs in sample.tags
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "action")
    )
    assert not re.search(r"//|:", own)
    for name in ("page.css", "page.js", "page.html.j2"):
        asset = document.asset(name)
        assert not re.search(r"url\(|@import|https?:|\bfetch\(|XMLHttpRequest|import\(", asset), name
    assert not {tag for tag, _ in sample.tags} & {"link", "iframe", "object", "embed", "base", "form", "img"}


def test_the_policy_allows_exactly_the_scripts_of_the_page(sample: Seen) -> None:
    policy = next(
        attrs["content"] for _, attrs in sample.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    kinds = [attrs.get("type") for tag, attrs in sample.tags if tag == "script"]
    run = [text for text, kind in zip(sample.scripts, kinds, strict=True) if kind is None]
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run}
    assert hashes == set(re.findall(r"sha256-([\w+/=]+)", policy.split("style-src")[0]))
    assert not [
        name for _, attrs in sample.tags for name in attrs if name.startswith("on") or name == "style"
    ]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_adds_no_element(payload: str, sample: Seen) -> None:
    seen = Seen(page.render(hostile(payload)))
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in sample.tags}
    assert sum(tag == "script" for tag, _ in seen.tags) == 4
    assert {name for _, attrs in seen.tags for name in attrs} <= {
        name for _, attrs in sample.tags for name in attrs
    }
    assert not re.search("[\x1b\ud800]", "".join(seen.words))
    assert json.loads(seen.scripts[0]) == hostile(payload)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    )
)
def test_embedded_json_reads_back_and_cannot_end_its_element(value: Any) -> None:
    written = str(document.embedded(value))
    assert json.loads(written) == value
    assert not set("<>&\u2028\u2029") & set(written)


def test_a_large_comparison_is_in_the_page_without_its_single_steps() -> None:
    """A short one stands in it as a whole."""
    for steps, whole in ((60, True), (4000, False)):
        compared = comparison(steps=steps)
        seen = Seen(page.render(compared))
        embedded = json.loads(next(text for text in seen.scripts if text.startswith('{"schema"')))
        assert (embedded == compared) is whole
        assert ("without steps" in seen.text) is not whole
        if not whole:
            assert embedded["left_out"] == ["trials[].losses", "trials[].step_times", "trials[].logged"]
            short = [
                {k: v for k, v in t.items() if f"trials[].{k}" not in embedded["left_out"]}
                for t in compared["trials"]
            ]
            assert embedded["trials"] == short
            assert embedded["verdicts"] == compared["verdicts"]


def test_figures_that_json_cannot_say_are_null() -> None:
    assert document.embedded({"a": [math.nan, math.inf, 1.0]}) == '{"a":[null,null,1.0]}'


WAYS = paths(metered(comparison(steps=8)))
PARTS = [DROPPED, None, "x", -1, 0, math.nan, 10**400, True, [], {}, [None], [["a", 1]], {"a": None}]


@settings(max_examples=40)
@given(hits=st.lists(st.tuples(st.sampled_from(WAYS), st.sampled_from(PARTS)), max_size=12))
def test_missing_and_wrong_parts_never_raise(hits: list[tuple[tuple[Any, ...], Any]]) -> None:
    compared = metered(comparison(steps=8))
    for way, part in hits:
        compared = damaged(compared, way, part)
    assert "</html>" in page.render(compared)


def test_an_empty_object_makes_a_page() -> None:
    text = Seen(page.render({})).text
    assert "No precision is recommended" in text
    assert "The comparison holds no verdicts." in text


def test_a_path_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UsageError,
        match=r"^Cannot write the page '.*page\.html' \(.*\); give a file in a folder you may write\.$",
    ):
        page.write(comparison(), tmp_path / "file" / "page.html")


def hostile_diagnosis(payload: str) -> dict[str, Any]:
    """A diagnosis with ``payload`` for every text in it; one layer keeps its format, whose edges are drawn."""
    made: dict[str, Any] = replaced(diagnosed.sample(layers=3), payload)
    made["layers"][0]["gradients"]["format"] = "fp16"
    return made


def test_a_diagnosis_is_a_section_of_the_page(sample: Seen) -> None:
    two = [diagnosed.sample(), diagnosed.sample(findings=0) | {"precision": "bf16"}]
    seen = Seen(page.render(comparison(), two))
    for said in ("What becomes of the numbers in fp16", "1 finding in 20 steps in fp16, 3 of them skipped",
                 "reaches 1.2e+05; fp16 ends at 65504", "What becomes of the numbers in bf16",
                 "fp16: Gradients of activations, the loss scale on them"):  # fmt: skip
        assert said in seen.text
        assert said not in sample.text
    drawn = [attrs["data-figure"] for _, attrs in seen.tags if "data-figure" in attrs]
    assert set(drawn) - {"loss", "steps", "scale", "logged-0"} == {
        "d0-gradients", "d0-activations", "d1-gradients", "d1-activations"
    }  # fmt: skip
    assert set(drawn) == json.loads(seen.scripts[1]).keys()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_in_a_diagnosis_adds_no_element(payload: str) -> None:
    plain = Seen(page.render(comparison(steps=8), [diagnosed.sample(layers=3)]))
    seen = Seen(page.render(hostile(payload), [hostile_diagnosis(payload)]))
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in plain.tags}
    assert sum(tag == "script" for tag, _ in seen.tags) == 4
    assert not re.search("[\x1b\ud800]", "".join(seen.words))
