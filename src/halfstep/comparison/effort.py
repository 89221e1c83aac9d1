"""What a trial cost, as fields of its row: joules, memory by part, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfstep.record import Record

_ON_CUDA = "torch.cuda.max_memory_allocated"


def energy(end: dict[str, Any], samples: int) -> dict[str, Any]:
    """Joules of the run, of a step and of a sample; absent with the reason.

    Args:
        end: the record's last event.
        samples: how many a step takes, over all ranks; 0 where that is not known.
    """
    joules, a_step = end.get("energy_joules"), end.get("joules_per_step")
    reason = end.get("energy_absent", "no end was recorded") if joules is None else None
    per_step = reason or end.get("joules_per_step_absent", "the record holds none")
    per_sample = "how many samples a step takes was not seen" if a_step is not None else per_step
    return {
        "energy_joules": joules,
        "energy_absent": reason,
        "energy_how": end.get("energy_how"),
        "joules_per_step": a_step,
        "joules_per_step_absent": None if a_step is not None else per_step,
        "joules_per_sample": a_step / samples if a_step is not None and samples else None,
        "joules_per_sample_absent": None if a_step is not None and samples else per_sample,
    }


def parts_of_memory(parts: dict[str, int] | None, ranks: Sequence[Record], absent: str) -> dict[str, Any]:
    """Bytes by part, with what the peak holds beyond the parts as workspace where an allocator tells of tensors alone.

    Workspace is what products and other operations hold for a moment, gradients of activations included:
    the allocator's peak less weights, gradients, optimizer state, activations and cast weights.
    """
    if not parts:
        return {"memory": None, "memory_absent": absent, "workspace_absent": absent}
    end = ranks[0].end
    peak, how = end.get("peak_memory_bytes"), end.get("peak_memory_how", "")
    if peak is None:
        return _with_parts(parts, end.get("peak_memory_absent", "the process ended without telling its peak"))
    if not how.startswith(_ON_CUDA):
        return _with_parts(
            parts,
            "on a CPU the peak is the resident set's, which holds the program's data and code too: "
            "the rest of the peak is not workspace alone",
        )
    if "activations" not in parts:
        return _with_parts(parts, "the activations are not known, and so neither is what is left beside them")
    rest = peak - sum(parts.values())
    if rest < 0:  # the sampled step kept more than any later one
        return _with_parts(parts, "the peak after the warm-up is below the parts of the sampled step")
    return _with_parts({**parts, "workspace": rest}, None)


def _with_parts(parts: dict[str, int], absent: str | None) -> dict[str, Any]:
    return {"memory": parts, "memory_absent": None, "workspace_absent": absent}


def time_shares(sample: dict[str, Any], steps: int) -> dict[str, Any]:
    """Shares of the profiled step by the kind of work, and that step's own figures."""
    shares = sample.get("time_shares")
    reached = (
        "the profiled step gave none" if steps > 2 else "measured in the third step, which was not reached"
    )
    return {
        "time_shares": shares,
        "time_shares_absent": None if shares else sample.get("time_shares_absent", reached),
        "profiled_step": sample.get("profiled"),
    }
