"""AMD's counters: played, as no such GPU is here."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from halfstep.meters.energy import open_meters
from halfstep.meters.energy_amd import open_amd
from halfstep.meters.reading import Absent, Kind, Reading


class Refused(Exception):
    """The library's own exception."""


def amdsmi(*counts: int, refused: bool = False) -> Any:
    """The library, with a GPU for each count, of 15.3 microjoules each."""
    gpus = [SimpleNamespace(count=count) for count in counts]

    def count(gpu: Any) -> dict[str, float]:
        if refused:
            raise Refused("AMDSMI_STATUS_NOT_SUPPORTED")
        return {"energy_accumulator": gpu.count, "counter_resolution": 15.3, "timestamp": 1}

    return SimpleNamespace(
        AmdSmiException=Refused,
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: gpus,
        amdsmi_get_energy_count=count,
        gpus=gpus,
    )


def test_joules_are_counts_times_their_size_over_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    played = amdsmi(1_000_000, 5_000_000)
    meter = open_amd(played)
    assert meter.kind() == Kind("J", "amdsmi energy counter, 2 GPUs")
    monkeypatch.setattr(meter, "_clock", lambda: 0.0)
    meter.start()
    monkeypatch.setattr(meter, "_clock", lambda: 10.0)
    played.gpus[0].count += 2_000_000
    played.gpus[1].count += 1_000_000
    assert meter.read() == Reading(pytest.approx(3_000_000 * 15.3e-6), "J", "amdsmi energy counter, 2 GPUs")


@pytest.mark.parametrize(("listed", "how"), [("1", "1 GPU"), ("0,1", "2 GPUs"), ("0,7,1", "1 GPU")])
def test_the_gpus_that_the_process_sees_are_metered(
    listed: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", listed)
    assert open_amd(amdsmi(1, 2)).kind() == Kind("J", f"amdsmi energy counter, {how}")


def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert open_amd(amdsmi(1)).kind() == Absent("no AMD GPU is visible to this process")
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    assert open_amd(amdsmi(1, refused=True)).kind() == Absent(
        "no energy counter by amdsmi: the driver does not tell (AMDSMI_STATUS_NOT_SUPPORTED)"
    )


def test_it_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi(7))
    assert open_meters()[0].kind() == Kind("J", "amdsmi energy counter, 1 GPU")
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi(7, refused=True))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "by amdsmi" in str(open_meters()[0].kind())
