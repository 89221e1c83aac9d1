"""Values to JSON and back: what was written is read again, and nothing in a file is taken on trust."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstep import codec
from halfstep.comparison.model.comparison import Comparison

from .report.sample import DROPPED, comparison, damaged, metered, paths


@dataclass(frozen=True)
class Leaf:
    """A figure, and how it was come by."""

    OMITTED: ClassVar = ("how",)
    value: float
    how: str | None = None


@dataclass(frozen=True)
class Tree:
    """One field of every type that a file may have."""

    name: str = "unnamed"
    count: int | None = None
    sure: bool = False
    kind: Literal["oak", "elm"] | None = None
    leaf: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, float] | None = None
    losses: tuple[float | None, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    code: str = field(default="", metadata={"lines": True})
    free: object = None


WHOLE = Tree(
    "birch",
    3,
    True,
    "elm",
    Leaf(1.5, "weighed"),
    (Leaf(2.0), Leaf(-1.0)),
    (1, 0.5),
    (0.5, None),
    {"a": 1},
    "x\ny",
    [1],
)


def test_what_is_written_is_read_again() -> None:
    text = json.dumps(codec.write(WHOLE))
    assert codec.read(Tree, json.loads(text)) == WHOLE
    assert '"leaves": [{"value": 2.0}, {"value": -1.0}]' in text  # what is left out where it is None
    assert codec.read(Tree, codec.write(Tree())) == Tree()


@pytest.mark.parametrize(
    "raw", [None, 3, "x", [], {"name": None}, {"leaf": {"how": "guessed"}}, {"kind": "ash"}]
)
def test_what_cannot_be_read_is_absent(raw: Any) -> None:
    assert codec.read(Tree, raw) == Tree()


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        ({"name": "\x1b[31mred\x1b[0m\u202e\ud800\nand more"}, "name", "red and more"),
        ({"code": "a\r\nb\x00"}, "code", "a\nb"),
        ({"count": 10**400}, "count", None),
        ({"count": True}, "count", None),
        ({"count": 3.0}, "count", 3),
        ({"leaf": {"value": math.nan}}, "leaf", None),
        ({"leaves": [{"value": 1}, 7, {"value": "1"}]}, "leaves", (Leaf(1),)),
        ({"pair": [1, 2, 3]}, "pair", None),
        ({"losses": [1.0, math.inf, "x"]}, "losses", (1.0, None, None)),
        ({"sizes": {"\x07a": 1, "b": []}}, "sizes", {"a": 1}),
        ({"free": {"\x07a": [math.nan, "\x1b[1mb"]}}, "free", {"a": [None, "b"]}),
    ],
)
def test_nothing_is_taken_on_trust(raw: Any, field: str, value: Any) -> None:
    assert getattr(codec.read(Tree, raw), field) == value


def test_an_object_without_a_figure_it_needs_is_said_to_be_unreadable() -> None:
    with pytest.raises(codec.Unreadable, match=r"^Leaf\.value$"):
        codec.read(Leaf, {"how": "guessed"})


COMPARED = json.dumps(metered(comparison(steps=8)))
WAYS = paths(json.loads(COMPARED))
PARTS = [DROPPED, None, "x", -1, math.nan, 10**400, True, [], {}, [None], {"a": None}]


@settings(max_examples=60)
@given(way=st.sampled_from(WAYS), part=st.sampled_from(PARTS))
def test_a_damaged_comparison_is_read_as_far_as_it_goes_and_written_as_json(
    way: tuple[Any, ...], part: Any
) -> None:
    found = codec.read(Comparison, damaged(json.loads(COMPARED), way, part))
    written = codec.write(found)
    json.dumps(written, allow_nan=False)
    assert codec.read(Comparison, written) == found
