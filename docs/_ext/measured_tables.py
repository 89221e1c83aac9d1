"""Tables of what was measured, made from benchmarks/results when the site is built: no figure is typed by hand.

```{measured} beside_amp
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from format_pictures import MarkdownTable
from sphinx.application import Sphinx

from halfstep.report.words.method import METHOD

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

Row = dict[str, Any]
Rows = Iterator[list[str]]


def result(name: str) -> Row:
    """A benchmark's result, as its ``--json`` wrote it."""
    found: Row = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def ratio(row: Row | None, digits: int = 3) -> str:
    """``1.013 (0.993 to 1.029)``; a dash where there is none."""
    if not row:
        return "–"
    middle = row.get("median", row.get("ratio"))
    return f"{middle:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def share(row: Row) -> str:
    """``1.6 % (1.1 to 2.2)``."""
    return f"{100 * row['share']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def beside_amp() -> Rows:
    found = result("beside_amp-intel-xeon")["results"]
    networks = list(dict.fromkeys(case.rpartition(", ")[0] for case in found))
    yield ["a step with halfstep, over one without", *networks]
    for precision in ("fp32", "bf16", "fp16"):
        other = "python" if precision == "fp32" else "hand-written AMP"
        yield [
            f"`{precision}` / {other}",
            *(ratio(found[f"{n}, {precision}"]["halfstep / without"]["ratio"]) for n in networks),
        ]
        yield [
            f"floor: without / without, {precision}",
            *(ratio(found[f"{n}, {precision}"]["again / without (floor)"]["ratio"]) for n in networks),
        ]


def regions() -> Rows:
    yield ["a bf16 step", "halfstep / hand-written AMP", "floor: without / without"]
    for case, row in result("regions-amd-epyc")["results"].items():
        yield [
            case,
            ratio(row["halfstep / without"]["ratio"]),
            ratio(row["again / without (floor)"]["ratio"]),
        ]


def overhead() -> Rows:
    yield ["ratio of step times, processes of their own", "few large layers", "300 small tensors"]
    found = result("overhead-amd-epyc")["ratios"]
    kinds = list(found)
    for pair in found[kinds[0]]:
        yield [pair, *(ratio(found[kind].get(pair)) for kind in kinds)]


def startup() -> Rows:
    row = result("overhead-amd-epyc")["startup_extra_seconds"]
    yield ["start-up", "more than python"]
    yield [
        "`halfstep run` of a program without a framework",
        f"{1e3 * row['median']:.0f} ms ({1e3 * row['low']:.0f} to {1e3 * row['high']:.0f})",
    ]


def recording() -> Rows:
    found = result("recording-amd-epyc")
    yield ["a record on / off, one process", "ratio", "microseconds per step"]
    for name, key in (
        ("recorded / not", "recorded / not"),
        ("floor: not / not", "not recorded / not (floor)"),
    ):
        row = found[key]
        yield [name, ratio(row["ratio"]), ratio(row["microseconds"], 0)]


def watching() -> Rows:
    yield ["model", "precision", "always on: looking for where NaN began", "`diagnose`"]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in result("watching-amd-epyc")["results"]:
        rows.setdefault((row["model"], row["precision"]), {})[row["variant"]] = ratio(row)
    for (model, precision), told in rows.items():
        yield [model, f"`{precision}`", told["recorded"], told["diagnosed"]]


def lean_speed() -> Rows:
    yield ["`bf16-lean` / `bf16`, AdamW", "step"]
    for case, row in result("lean-amd-epyc")["results"]["speed"].items():
        yield [case, ratio(row)]


def lean_memory() -> Rows:
    yield [
        "optimizer, gradients",
        "`bf16-lean`",
        "`bf16`",
        "hand-written AMP",
        "`bf16-lean` / hand-written",
        "ideal",
    ]
    for case, row in result("lean-amd-epyc")["results"]["memory"].items():
        each = row["bytes_per_parameter"]
        yield [
            case,
            *(f"{each[name]:.1f}" for name in ("bf16-lean", "bf16", "by hand")),
            ratio(row["over_by_hand"]),
            f"{row['ideal']:.3f}",
        ]


def products() -> Rows:
    found = result("products-amd-epyc")["results"]
    variants = [v for v in next(iter(found.values())) if v != "fp32"]
    yield ["step time over fp32's", *variants]
    for network, rows in found.items():
        yield [network, *(ratio(rows[v]["over_fp32"], 2) if v in rows else "–" for v in variants)]


def loss_scaling() -> Rows:
    found = result("loss_scaling-amd-epyc")["results"]
    yield [
        "parameters in tensors",
        "`step` and `update` over one pass: halfstep", "PyTorch",
        "fused AdamW over the bare optimizer: halfstep", "PyTorch",
        "fused SGD: halfstep", "PyTorch",
    ]  # fmt: skip
    for case, rows in found.items():
        cells = []
        for kind, over in (("step and update", "over pass"), ("fused AdamW", "over optimizer"),
                           ("fused SGD, momentum", "over optimizer")):  # fmt: skip
            cells += [
                ratio(rows[kind][who].get(over), 2) if kind in rows else "–" for who in ("halfstep", "torch")
            ]
        yield [case, *cells]


def rounding() -> Rows:
    yield from _over_copy("numerics-amd-epyc")


def rounding_16bit() -> Rows:
    yield from _over_copy("numerics-bf16-amd-epyc", "numerics-fp16-amd-epyc")


def _over_copy(*names: str) -> Rows:
    found = {
        case: rows for name in names for case, rows in result(name)["results"].items() if "elements" in case
    }
    left_out = ("copy", "halfstep, new memory")
    others = list(dict.fromkeys(who for rows in found.values() for who in rows if who not in left_out))
    yield ["over one copy of the tensor", *others]
    for case, rows in found.items():
        yield [case, *(ratio(rows[who]["over copy"], 2) if who in rows else "–" for who in others)]


def emulated() -> Rows:
    found = {
        case: rows for case, rows in result("numerics-amd-epyc")["results"].items() if "elements" not in case
    }
    precisions = [name for name in next(iter(found.values())) if name != "fp32"]
    yield ["an emulated step over fp32's", *(f"`{name}`" for name in precisions)]
    for case, rows in found.items():
        yield [case, *(ratio(rows[name]["over fp32"], 2) for name in precisions)]


def verdicts() -> Rows:
    yield [
        "true difference", "seeds", "false alarm among three equal precisions", "the difference is seen",
        "the interval holds the truth", "equal ones called equivalent", "different ones called equivalent",
    ]  # fmt: skip
    for row in result("verdicts-amd-epyc")["simulated"]:
        names = ("false_alarm_of_three", "shift_seen", "interval_covers", "equal_called_equivalent",
                 "shifted_called_equivalent")  # fmt: skip
        yield [row["true_shift"], str(row["seeds"]), *(share(row[name]) for name in names)]


def budget() -> Rows:
    """How often comparisons with a budget are wrong, by the kind of noise."""
    yield ["noise", "false alarm", "gain denied", "called equivalent"]
    found = result("verdicts-budget")["budget"]
    edge = {row["noise"]: row for row in found["boundary"]}
    for row in found["nothing"]:
        at = edge.get(row["noise"])
        cells = (
            ["–", "–"] if at is None else [share(at[name]) for name in ("gain_denied", "called_equivalent")]
        )
        yield [row["noise"], share(row["false_alarm"]), *cells]


def budget_trials() -> Rows:
    """Trials that a comparison with a budget needs, as a share of a fixed plan's."""
    yield ["fixed plan", "at its effect", "at twice the effect"]
    found = result("verdicts-budget")["budget"]
    for row in found["effect"]:
        shares = (f"{row[name]['pairs']:.2f}" for name in ("designed", "twice"))
        yield [f"{row['fixed_pairs']} pairs", *shares]
    yield ["`--seeds 5` of the gallery's cases", f"{found['gallery']['trials']['as_long']:.2f}", "–"]


def gallery() -> Rows:
    """The examples in bf16 and fp16: speed, memory and quality beside fp32, over five seeds."""
    yield ["program", "precision", "speed", "peak memory over fp32's", "quality"]
    for case in result("gallery-amd-epyc")["cases"]:
        rows = {row["precision"]: row for row in case.get("rows", ())}
        for name in ("bf16", "fp16", "as-is"):
            row = rows.get(name)
            if row is None or not row["speed_ratio"]:
                continue
            shown = "the script's own AMP" if name == "as-is" else f"`{name}`"
            quality = str(row["quality"]["words"]).removeprefix("loss: ").replace("|", "\\|")
            yield [case["name"], shown, times(row["speed_ratio"]), times(row["memory_ratio"]), quality]


def method() -> Rows:
    """How each figure of a comparison is come by, in the words of its page."""
    yield ["figure", "how"]
    yield from ([figure, how] for figure, how in METHOD)


def times(row: Row) -> str:
    """``2.15× (1.99 to 2.32)``."""
    ends = "" if row.get("low") is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['value']:.2f}×{ends}"


TABLES: dict[str, Callable[[], Rows]] = {
    made.__name__: made
    for made in (
        beside_amp, regions, overhead, startup, recording, watching, lean_speed, lean_memory, products, loss_scaling,
        rounding, rounding_16bit, emulated, verdicts, budget, budget_trials, gallery, method,
    )
}  # fmt: skip


class Measured(MarkdownTable):
    """One of the tables, by its name."""

    required_arguments = 1

    def rows(self) -> Rows:
        self.env.note_dependency(str(RESULTS))
        return TABLES[self.arguments[0]]()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True}
