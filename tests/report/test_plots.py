"""The plots hold the figures of the comparison, and are figures that plotly accepts."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import plotly.graph_objects
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep.report import bars, plots
from halfstep.report.reading import read

from .sample import comparison, hostile

maybe = st.one_of(st.none(), st.floats(-1e6, 1e6))
curves = st.lists(st.lists(maybe, max_size=12), min_size=1, max_size=5)


def drawn(compared: dict | None = None) -> dict[str, plots.Figure]:
    compared_ = read(compared or comparison())
    return plots.figures(compared_, plots.slots([*compared_.precisions, "fp32", "bf16", "fp16"]))


def lit(part: object) -> object:
    """The figure with a colour for every colour's name."""
    if isinstance(part, dict):
        return {k: "#123456" if isinstance(v, str) and v.startswith("@") else lit(v) for k, v in part.items()}
    return [lit(item) for item in part] if isinstance(part, list) else part


@pytest.mark.parametrize("name", ["loss", "steps", "scale", "logged-0"])
def test_plotly_accepts_every_figure(name: str) -> None:
    plotly.graph_objects.Figure(lit(drawn()[name]))


def test_the_thick_line_is_the_median_of_the_trials() -> None:
    compared = comparison(repeats=3)
    losses = [
        [x if x is not None else math.nan for x in t["losses"]]
        for t in compared["trials"]
        if t["precision"] == "bf16"
    ]
    thick = [t for t in drawn(compared)["loss"]["data"] if t["name"] == "bf16" and t["showlegend"]]
    assert thick[0]["y"] == np.median(losses, axis=0).tolist()


def test_beneath_is_the_loss_less_the_baselines_median() -> None:
    compared = comparison()
    median = {
        p: np.median([t["losses"] for t in compared["trials"] if t["precision"] == p], axis=0)
        for p in ("fp32", "bf16")
    }
    beneath = [t for t in drawn(compared)["loss"]["data"] if t["name"] == "bf16" and t.get("yaxis") == "y2"]
    assert beneath[-1]["y"] == pytest.approx(median["bf16"] - median["fp32"])


@given(curves)
def test_median_curve_is_numpys_nanmedian(columns: list[list[float | None]]) -> None:
    longest = max(map(len, columns))
    filled = [[math.nan if x is None else x for x in c] + [math.nan] * (longest - len(c)) for c in columns]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns where a step has no loss at all
        expected = np.nanmedian(np.array(filled).reshape(len(columns), longest), axis=0)
    ours = [math.nan if x is None else x for x in plots.median_curve(columns)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_a_long_line_keeps_its_highest_and_lowest_points_in_order() -> None:
    heights = np.random.default_rng(0).standard_normal(100_000).tolist()
    kept = plots.thinned(list(enumerate(heights)))
    assert len(kept) <= plots.POINTS
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert (max(y for _, y in kept), min(y for _, y in kept)) == (max(heights), min(heights))


def test_step_times_leave_warm_up_out() -> None:
    compared = comparison()
    times = [x for t in compared["trials"] if t["precision"] == "bf16" for x in t["step_times"][5:]]
    dots, bar, mark = (t for t in drawn(compared)["steps"]["data"] if t["name"] == "bf16")
    assert sorted(dots["x"]) == pytest.approx(sorted(1e3 * x for x in times))
    assert bar["x"] == pytest.approx(1e3 * np.quantile(times, [0.25, 0.75]))
    assert mark["x"] == pytest.approx([1e3 * np.median(times)])


@given(
    st.lists(
        st.sampled_from([*plots._KNOWN, "fp16:loss_scale=8", "a", "b"]), unique=True, max_size=plots.SLOTS
    )
)
def test_every_name_has_a_colour_of_its_own(names: list[str]) -> None:
    given_ = plots.slots(names)
    assert len(set(given_.values())) == len(names)
    assert all(given_[name] == plots._KNOWN.index(name) for name in names if name in plots._KNOWN)


def test_more_names_than_colours_share_them() -> None:
    given_ = plots.slots([*plots._KNOWN, *map(str, range(30))])
    assert set(given_.values()) == set(range(plots.SLOTS))


def test_names_are_escaped_for_plotly() -> None:
    written = json.dumps(drawn(hostile("<a href='javascript:x'>n</a>")))
    assert "<a" not in written
    assert "&lt;a href=" in written


def test_nothing_to_draw_is_no_figure() -> None:
    assert drawn({"trials": [{"precision": "bf16"}]}) == {}


def test_memory_bars_add_up_to_the_peak() -> None:
    made = {bar.precision: bar for bar in bars.memory(read(comparison()))}
    assert sum(part.width for part in made["fp32"].parts) == pytest.approx(100)
    peak = [t["peak_memory_bytes"] for t in comparison()["trials"] if t["precision"] in ("bf16", "fp32")]
    widest, bf16 = np.median(peak[::2]), np.median(peak[1::2])
    assert sum(part.width for part in made["bf16"].parts) == pytest.approx(100 * bf16 / widest)
    assert made["tf32"].parts == ()
    assert made["tf32"].reason.startswith("tf32 needs a GPU")


def test_share_bars_say_the_range_where_trials_differ() -> None:
    compared = comparison()
    first = next(t for t in compared["trials"] if t["precision"] == "bf16")
    first["matmul_share"] = {"bf16": 0.9, "fp32": 0.1}
    compared_ = read(compared)
    made = {
        bar.precision: bar
        for bar in bars.shares(compared_, plots.slots(["fp32", "bf16", "fp16", "tf32", "bf16-true"]))
    }
    assert made["bf16"].total == "bf16 90% to 98.4%, fp32 1.6% to 10%"
    assert made["fp16"].total == "fp16 98.4%, fp32 1.6%"
    assert [part.width for part in made["bf16"].parts] == pytest.approx([94.2, 5.8])
