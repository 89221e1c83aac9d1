"""From a comparison to a recommendation: a table of rules, the first that applies decides.

Each reason names the figure of the comparison object that it rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halfstep.adopt import adopt

#: a final loss within this share of the loss's fall counts as close when a single seed cannot tell more
CLOSE = 0.05

#: a precision this much slower than the fastest is still preferred where it is the safer one
AS_FAST = 0.95

Verdict = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """The comparison's verdicts, sorted into what the rules ask about. Pairs of (index, verdict)."""

    baseline: tuple[int, Verdict] | None
    ran: list[tuple[int, Verdict]]
    failed: list[tuple[int, Verdict]]

    @classmethod
    def of(cls, verdicts: list[Verdict]) -> Evidence:
        """Sort the verdicts; ``as-is`` is shown but never recommended against the script's own choice."""
        rows = list(enumerate(verdicts))
        name = next((v["baseline"] for v in verdicts), None)
        baseline = next(((i, v) for i, v in rows if v["precision"] == name), None)
        others = [(i, v) for i, v in rows if v["precision"] != name]
        return cls(
            baseline,
            [(i, v) for i, v in others if v["status"] == "ok" and v.get("speed_ratio")],
            [(i, v) for i, v in others if v["status"] != "ok"],
        )

    @property
    def faster(self) -> list[tuple[int, Verdict]]:
        """Those significantly faster than the baseline, the fastest first."""
        found = [
            (i, v) for i, v in self.ran if v["speed_ratio"]["significant"] and v["speed_ratio"]["value"] > 1
        ]
        return sorted(found, key=lambda row: -row[1]["speed_ratio"]["value"])

    @property
    def smaller(self) -> list[tuple[int, Verdict]]:
        """Those that need at least a tenth less memory than the baseline."""
        return [(i, v) for i, v in self.ran if (v.get("memory_ratio") or {}).get("value", 1.0) <= 0.9]


def is_close(verdict: Verdict) -> bool | None:
    """Whether the final loss is as good as the baseline's; None if it cannot be told."""
    loss = verdict.get("loss") or {}
    difference = loss.get("difference")
    if not difference:
        return None
    if difference["low"] is not None and difference["low"] > 0:
        return False
    fall = difference.get("fall")
    if not fall or fall <= 0:
        return None
    return bool(difference["value"] <= CLOSE * fall)


def _reason(text: str, index: int, figure: str) -> dict[str, str]:
    return {"text": text, "evidence": f"verdicts[{index}].{figure}"}


def _nothing_ran(evidence: Evidence) -> dict[str, Any] | None:
    if evidence.baseline is not None:
        return None
    reasons = [
        _reason(f"{v['precision']}: {v['status']}, {v['reason']}", i, "reason") for i, v in evidence.failed
    ]
    return {
        "precision": None,
        "text": "No trial ran to its end, so there is nothing to recommend.",
        "reasons": reasons,
    }


def _alone(evidence: Evidence) -> dict[str, Any] | None:
    if evidence.ran:
        return None
    index, base = evidence.baseline or (0, {})
    reasons = [
        _reason(f"{v['precision']}: {v['status']}, {v['reason']}", i, "reason") for i, v in evidence.failed
    ]
    reasons = reasons or [_reason("No other precision was tried.", index, "trials")]
    return {
        "precision": base["precision"],
        "text": f"Stay with {base['precision']}: it alone ran to its end.",
        "reasons": reasons,
    }


def _fast_and_close(evidence: Evidence) -> dict[str, Any] | None:
    good = [(i, v) for i, v in evidence.faster if is_close(v) and v["precision"] != "as-is"]
    if not good:
        return None
    best = good[0][1]["speed_ratio"]["value"]
    # bf16 has fp32's range: no loss scale, nothing to overflow.
    safer = [(i, v) for i, v in good if v["precision"].startswith("bf16")]
    index, verdict = next(((i, v) for i, v in safer if v["speed_ratio"]["value"] >= AS_FAST * best), good[0])
    ratio = verdict["speed_ratio"]
    reasons = [
        _reason(f"{ratio['words']} than {verdict['baseline']} ({_range(ratio)})", index, "speed_ratio"),
        _reason(f"Final loss: {verdict['loss']['words']}", index, "loss.difference"),
    ]
    if (memory := verdict.get("memory_ratio")) is not None:
        reasons.append(
            _reason(f"Peak memory: {memory['words']} of {verdict['baseline']}'s", index, "memory_ratio")
        )
    if verdict["skipped_steps"]:
        skipped = f"{verdict['skipped_steps']} steps were skipped while the loss scale settled"
        reasons.append(_reason(skipped, index, "skipped_steps"))
    text = f"Use {verdict['precision']}: {ratio['words']}, and the loss is close."
    return {"precision": verdict["precision"], "text": text, "reasons": reasons}


def _fast_but_apart(evidence: Evidence) -> dict[str, Any] | None:
    if not evidence.faster:
        return None
    index, verdict = evidence.faster[0]
    loss = verdict.get("loss") or {}
    reasons = [
        _reason(f"{verdict['precision']} is {verdict['speed_ratio']['words']}", index, "speed_ratio"),
        _reason(f"but its final loss: {loss.get('words') or 'not known'}", index, "loss.difference"),
    ]
    return {
        "precision": None,
        "text": f"Undecided: {verdict['precision']} is faster, but its loss may be worse; run with --seeds 5.",
        "reasons": reasons,
    }


def _not_faster(evidence: Evidence) -> dict[str, Any] | None:
    _, base = evidence.baseline or (0, {})
    reasons = [
        _reason(
            f"{v['precision']}: {v['speed_ratio']['words']} ({_range(v['speed_ratio'])})", i, "speed_ratio"
        )
        for i, v in evidence.ran
    ]
    reasons += [
        _reason(f"{v['precision']}: this device has no units for it ({v['ran_as']})", i, "ran_as")
        for i, v in evidence.ran
        if "products in fp32 units" in (v["ran_as"] or "")
    ]
    text = f"Stay with {base['precision']}: no other precision was faster here."
    smaller = [(i, v) for i, v in evidence.smaller if is_close(v)]
    if smaller:
        i, v = min(smaller, key=lambda row: row[1]["memory_ratio"]["value"])
        text += f" If memory is short, {v['precision']} needs {v['memory_ratio']['value']:.2f}× of it."
        reasons.append(_reason(f"{v['precision']}: {v['memory_ratio']['words']}", i, "memory_ratio"))
    return {"precision": base["precision"], "text": text, "reasons": reasons}


def _range(ratio: dict[str, Any]) -> str:
    if ratio["low"] is None:
        return f"{ratio['value']:.2f}×, too few steps for an interval"
    return f"{ratio['value']:.2f}×, 95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}"


#: the first rule that has an answer decides
RULES: tuple[Callable[[Evidence], dict[str, Any] | None], ...] = (
    _nothing_ran,
    _alone,
    _fast_and_close,
    _fast_but_apart,
    _not_faster,
)


def recommend(verdicts: list[Verdict], framework: str = "pytorch", device: str = "cpu") -> dict[str, Any]:
    """The recommendation for a comparison's verdicts, with its reasons and the lines to adopt it."""
    evidence = Evidence.of(verdicts)
    found = next(answer for rule in RULES if (answer := rule(evidence)) is not None)
    code = adopt(found["precision"], device) if found["precision"] else None
    return found | {"adopt": None if code is None else {"framework": framework, "code": code}}
