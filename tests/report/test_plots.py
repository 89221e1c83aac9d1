"""The plots hold the figures of the comparison, and are figures that plotly accepts."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep.report import bars, document, plots, traces
from halfstep.report.reading import read

from .sample import comparison, hostile, metered

plotly = pytest.importorskip("plotly.graph_objects", exc_type=ImportError)

maybe = st.one_of(st.none(), st.floats(-1e6, 1e6))
curves = st.lists(st.lists(maybe, max_size=12), min_size=1, max_size=5)


def drawn(compared: dict | None = None) -> dict[str, traces.Figure]:
    compared_ = read(compared or comparison())
    return plots.figures(compared_, plots.slots([*compared_.precisions, "fp32", "bf16", "fp16"]))


def lit(part: object) -> object:
    """The figure with a colour for every colour's name."""
    if isinstance(part, dict):
        return {k: "#123456" if isinstance(v, str) and v.startswith("@") else lit(v) for k, v in part.items()}
    return [lit(item) for item in part] if isinstance(part, list) else part


@pytest.mark.parametrize("name", ["loss", "steps", "scale", "logged-0"])
def test_plotly_accepts_every_figure(name: str) -> None:
    plotly.Figure(lit(drawn()[name]))


def test_the_thick_line_is_the_median_of_the_trials() -> None:
    compared = comparison(repeats=3)
    losses = [
        [x if x is not None else math.nan for x in t["losses"]]
        for t in compared["trials"]
        if t["precision"] == "bf16"
    ]
    thick = [t for t in drawn(compared)["loss"]["data"] if t["name"] == "bf16" and t["line"]["width"] == 2]
    assert thick[0]["y"] == np.median(losses, axis=0).tolist()


def run_in_parts() -> dict:
    compared = comparison()
    parts = [
        {"first": 0, "last": 29, "value": 0.5, "low": -0.1, "high": 0.7},
        {"first": 30, "last": 59, "value": 0.4, "low": 0.1, "high": 0.6},
    ]
    for verdict in compared["verdicts"][2:4]:
        verdict["loss"]["over_run"] = {"parts": parts, "difference": {"margin": 0.25}}
    return compared


def test_the_run_in_parts_has_its_bands_and_the_margin() -> None:
    data = drawn(run_in_parts())["run"]["data"]
    plotly.Figure(lit(drawn(run_in_parts())["run"]))
    assert [trace["y"] for trace in data[:2]] == [[-0.25, -0.25], [0.25, 0.25]]
    bf16, fp16 = data[2:]
    assert (bf16["name"], fp16["name"]) == ("bf16", "fp16")
    assert bf16["y"] == [0.5, 0.4]
    assert bf16["error_y"]["array"] == pytest.approx([0.2, 0.2])
    assert bf16["error_y"]["arrayminus"] == pytest.approx([0.6, 0.3])
    assert bf16["marker"]["symbol"] == ["circle-open", "circle"]  # the first band holds zero
    assert all(first < at < then for at, first, then in zip(bf16["x"], (0, 30), (29, 59), strict=True))
    assert all(a < b for a, b in zip(bf16["x"], fp16["x"], strict=True))


def test_without_parts_the_run_is_not_drawn() -> None:
    assert "run" not in drawn()
    damaged = run_in_parts()
    for verdict in damaged["verdicts"][2:4]:
        verdict["loss"]["over_run"] = {
            "parts": [{"first": 0, "last": 9, "value": None, "low": "x", "high": 1}]
        }
    assert "run" not in drawn(damaged)


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


@pytest.mark.parametrize("most", [traces.FEWEST, traces.POINTS])
def test_a_long_line_keeps_its_ends_its_extremes_and_its_gaps(most: int) -> None:
    heights: list[float | None] = np.random.default_rng(0).standard_normal(100_000).tolist()
    heights[4321], heights[54_321] = 1e3, -1e3
    heights[70_000:80_000] = [None] * 10_000
    heights[90_000] = None
    kept = traces.thinned(list(enumerate(heights)), most)
    assert len(kept) <= most
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert (kept[0], kept[-1]) == ((0, heights[0]), (99_999, heights[-1]))
    assert {(4321, 1e3), (54_321, -1e3), (90_000, None)} <= set(kept)
    assert {y for x, y in kept if 71_000 + 300_000 / most < x < 79_000 - 300_000 / most} <= {None}
    assert all(heights[x] == y for x, y in kept)


def test_of_many_long_lines_each_has_fewer_points_and_no_spike_is_lost() -> None:
    compared = comparison(steps=4000, repeats=3)
    for trial in compared["trials"]:
        trial["logged"] = {"a": [[step, float(step % 7)] for step in range(4000)]}
    compared["trials"][0]["losses"][1234] = 1e6
    found = drawn(seeded(compared))
    lines = [trace for figure in found.values() for trace in figure["data"] if trace["mode"] == "lines"]
    assert traces.FEWEST < max(len(trace["x"]) for trace in lines) < traces.ALL / 20
    assert sum(len(trace["x"]) for trace in lines) <= traces.ALL
    high = next(
        t for t in found["loss"]["data"] if t.get("fill") and t["name"] == "fp32" and t["yaxis"] == "y"
    )
    assert max(high["y"]) == 1e6


def test_a_line_of_crosses_has_a_screenful_of_them() -> None:
    crosses = traces.holes([1.0, *[None] * 5000], "fp16", "@p1")
    assert len(crosses["x"]) <= traces.DOTS + 1
    assert (crosses["x"][0], crosses["x"][-1]) == (1, 5000)


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


def test_a_long_name_beside_an_axis_is_broken_between_its_options() -> None:
    assert traces.lines("fp16:loss_scale=8") == "fp16:loss_scale=8"
    assert (
        traces.lines("fp16:init_scale=256:growth_interval=500")
        == "fp16:<br>init_scale=256:<br>growth_interval=500"
    )
    assert traces.lines("<" * 99) == f"{'&lt;' * 20}<br>{'&lt;' * 20}<br>…"


def test_a_legend_names_what_is_drawn_in_the_order_of_the_table() -> None:
    compared_ = read(comparison())
    made = plots.figures(compared_, plots.slots(compared_.precisions))
    named = {name: plots.names(figure, compared_) for name, figure in made.items()}
    assert named == {
        "loss": ["fp32", "bf16", "fp16", "bf16-true"],
        "steps": [],
        "scale": ["fp16"],
        "logged-0": ["fp32", "bf16", "fp16", "bf16-true"],
    }


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


def test_a_loss_scale_that_never_moved_is_drawn_to_the_last_step() -> None:
    compared = comparison()
    trial = next(t for t in compared["trials"] if t["precision"] == "fp16")
    trial["loss_scale"] = [[0, 65536.0]]
    line = drawn(compared)["scale"]["data"][0]
    assert (line["x"], line["y"]) == ([0, trial["steps"] - 1], [65536.0, 65536.0])


def test_one_trial_has_no_spread_of_memory() -> None:
    made = {bar.precision: bar for bar in bars.memory(read(comparison(repeats=1)))}
    assert "±" not in made["fp32"].total
    assert "±" in {bar.precision: bar for bar in bars.memory(read(comparison()))}["fp32"].total


#: linear RGB as seen with normal vision, protanopia, deuteranopia, tritanopia (Machado et al. 2009, severity 1)
VISIONS = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
]


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (white D65) of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [0, 1, 2])
@pytest.mark.parametrize("vision", range(4))
def test_colours_are_told_apart_by_every_eye(theme: int, vision: int) -> None:
    block = document.asset("page.css").split("--paper:")[1 + theme]
    written = re.findall(r"--p\d: #(\w{6})", block)
    assert len(written) == plots.SLOTS
    srgb = [np.array([int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for c in written]
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in srgb]
    seen = [lab(np.array(VISIONS[vision]) @ c) for c in linear]
    gaps = {
        pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]]))
        for pair in itertools.combinations(range(10), 2)
    }
    assert min(gaps.values()) > 12  # 2.3 is the smallest difference that is seen side by side
    assert min(gap for pair, gap in gaps.items() if max(pair) < 6) > 24


def seeded(compared: dict) -> dict:
    """The repeats of the sample as seeds."""
    for trial in compared["trials"]:
        trial["seed"], trial["repeat"] = trial["repeat"], 0
    return compared


def test_the_band_is_the_range_of_the_seeds() -> None:
    compared = seeded(comparison(repeats=3))
    losses = [t["losses"] for t in compared["trials"] if t["precision"] == "bf16"]
    low, high = (
        t
        for t in drawn(compared)["loss"]["data"]
        if t["name"] == "bf16" and t["line"]["width"] == 0 and t["yaxis"] == "y"
    )
    assert low["y"] == np.min(losses, axis=0).tolist()
    assert high["y"] == np.max(losses, axis=0).tolist()
    assert (high["fill"], high["fillcolor"]) == ("tonexty", "@p2:22")


def test_beneath_each_seed_is_compared_with_the_same_seed() -> None:
    compared = seeded(comparison(repeats=3))
    ours, theirs = (
        {t["seed"]: np.array(t["losses"]) for t in compared["trials"] if t["precision"] == p}
        for p in ("bf16", "fp32")
    )
    data = [t for t in drawn(compared)["loss"]["data"] if t["name"] == "bf16" and t["yaxis"] == "y2"]
    thick = next(t for t in data if t["line"]["width"] == 2)
    assert thick["y"] == np.median([ours[s] - theirs[s] for s in range(3)], axis=0).tolist()


def test_the_noise_band_is_how_far_the_baselines_seeds_lie_apart() -> None:
    compared = seeded(comparison(repeats=3))
    base = np.array([t["losses"] for t in compared["trials"] if t["precision"] == "fp32"])
    low, high = [t for t in drawn(compared)["loss"]["data"] if t["name"] == "fp32" and t["yaxis"] == "y2"]
    assert low["y"] == np.min(base - np.median(base, axis=0), axis=0).tolist()
    assert high["y"] == np.max(base - np.median(base, axis=0), axis=0).tolist()
    assert not [t for t in drawn(comparison())["loss"]["data"] if t["name"] == "fp32" and t["yaxis"] == "y2"]


def test_time_bars_are_the_median_step_by_the_shares() -> None:
    compared = read(comparison())
    made = {bar.precision: bar for bar in bars.time(compared)}
    steps = {row.precision: row.step_time for row in compared.verdicts}
    fp32, bf16 = (steps[name].value for name in ("fp32", "bf16"))
    assert sum(part.width for part in made["bf16"].parts) == pytest.approx(100 * bf16 / fp32)
    assert made["fp32"].parts[0].width == pytest.approx(71)
    assert made["fp32"].parts[0].label.startswith("matrix products 1")
    assert made["tf32"].parts == ()


def test_energy_and_batches_are_drawn_to_one_scale() -> None:
    compared = read(metered(comparison()))
    colours = plots.slots(compared.precisions)
    energy = {bar.precision: bar for bar in bars.energy(compared, colours)}
    assert energy["fp32"].parts[0].width == 100
    assert energy["tf32"].parts == ()
    fit = {bar.precision: bar for bar in bars.fit(compared, colours)}
    assert fit["fp32"].parts[0].width == pytest.approx(100 * 128 / 248)
    assert (fit["bf16"].total, fit["bf16"].note) == ("248 images, 1.94×", "312 did not fit")
    assert (fit["fp16"].parts, fit["fp16"].reason) == ((), "even 1 did not fit")


def test_the_parts_of_a_bar_differ_in_lightness_from_their_neighbours() -> None:
    block = document.asset("page.css").split("--paper:")
    for theme in (1, 2, 3):
        lightness = [
            lab(np.array([((int(c[i : i + 2], 16) / 255 + 0.055) / 1.055) ** 2.4 for i in (0, 2, 4)]))[0]
            for c in re.findall(r"--m\d: #(\w{6})", block[theme])
        ]
        for order in (list(bars._MEMORY_COLOURS.values()), list(bars._TIME_COLOURS.values())):
            marks = [lightness[int(name[1:])] for name in order]
            assert min(abs(a - b) for a, b in itertools.pairwise(marks)) > 9
