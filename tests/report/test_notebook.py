"""What a notebook shows: self-contained, nothing that runs, the same figures as everywhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from halfstep.report.loading import load
from halfstep.report.notebook import HEIGHT, WIDTH, chart, render, unbroken
from halfstep.report.reading import read

from .sample import comparison, damaged, hostile, paths, untested

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1); '",
    "{{ 7*7 }}",
    "]]></svg>",
]


class Elements(HTMLParser):
    """The elements and attributes of a fragment."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def shape(text: str) -> list[str]:
    return [tag for tag, _ in Elements(text).found]


@pytest.mark.parametrize("payload", HOSTILE)
def test_no_text_becomes_an_element_or_an_attribute(payload: str) -> None:
    found = Elements(render(hostile(payload))).found
    assert {tag for tag, _ in found}.isdisjoint({"script", "img", "iframe", "link", "object"})
    for _, attributes in found:
        assert not any(name.startswith("on") or name in ("src", "href") for name in attributes)
    assert shape(render(hostile(payload))) == shape(render(hostile("harmless")))


def test_a_line_is_broken_in_no_option() -> None:
    assert unbroken("run with --repeats 9, <b> or --budget.") == (
        'run with <span style="white-space: nowrap">--repeats 9</span>, &lt;b&gt; or '
        '<span style="white-space: nowrap">--budget</span>.'
    )


def test_it_is_well_formed_and_fetches_nothing() -> None:
    text = render(comparison())
    ElementTree.fromstring(text.replace("–", "-").replace("&#9632;", ""))
    assert not re.search(r"https?://|url\(|@import", text)


def test_it_tells_what_the_comparison_tells(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps(comparison()))
    loaded = load(tmp_path)
    text = loaded._repr_html_()
    assert loaded.recommendation["text"].replace("'", "&#39;") in text
    for verdict in loaded.verdicts:
        assert verdict["precision"] in text


def words(made: dict[str, Any]) -> str:
    """What the fragment says, without its elements."""
    return " ".join(re.sub(r"<[^>]*>", " ", render(made)).split())


def test_every_figure_stands_over_its_interval_or_why_there_is_none() -> None:
    made = comparison()
    bf16 = next(row for row in made["verdicts"] if row["precision"] == "bf16")
    bf16["speed_ratio"] |= {"value": 1.43, "low": 0.93, "high": 2.19, "significant": False}
    bf16["memory_ratio"] |= {"value": 0.828, "low": 0.768, "high": 0.891, "significant": True}
    assert "1.43× 0.93–2.19×, not significant" in words(made)
    assert "0.828× 0.768–0.891× " in words(made)
    alone = untested(comparison())
    for row in alone["verdicts"]:
        row["trials"] = 1
        if row["peak_memory"]:
            row["peak_memory"] |= {"low": None, "high": None}
    assert "MiB no interval: one trial" in words(alone)
    assert re.search(r"[\d.]+× no interval: one trial", words(alone))
    assert "not significant" not in words(alone)


def test_curves_are_mean_and_range_over_the_trials() -> None:
    made = comparison(steps=8)
    made["trials"] = [
        t | {"losses": losses} for t, losses in zip(made["trials"][:2], ([4.0, 0.0], [2.0, 2.0]), strict=True)
    ]
    made["trials"][1]["precision"] = made["trials"][0]["precision"] = "fp32"
    found = chart(read(made))
    assert found is not None
    drawn = found.curves["fp32"]
    assert drawn["line"] == f"0.0,{HEIGHT / 4:.1f} {WIDTH:.1f},{HEIGHT * 3 / 4:.1f}"
    assert drawn["band"].split(" ")[0] == f"0.0,{HEIGHT / 2:.1f}"


def test_the_curves_have_numbers_at_their_axes() -> None:
    made = comparison()
    found = chart(read(made))
    assert found is not None
    losses = [x for trial in made["trials"] for x in trial["losses"] if x is not None]
    span = max(losses) - min(losses)
    assert len(found.losses) >= 3
    assert [words for _, words in found.steps] == ["0", "10", "20", "30", "40", "50"]
    for y, words in found.losses:
        assert y == pytest.approx(HEIGHT * (max(losses) - float(words)) / span)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", render(made))
    assert texts == [words for _, words in (*found.losses, *found.steps)]


def test_without_a_loss_there_is_no_chart() -> None:
    assert chart(read({})) is None
    assert "<svg" not in render({})


def test_a_damaged_comparison_is_still_shown() -> None:
    made = comparison(steps=8)
    for way in paths(made)[::7]:
        assert render(damaged(comparison(steps=8), way, None)).startswith("<div")
