"""``halfstep info``: what is here, and what is not."""

from __future__ import annotations

import json

import torch

from .running import halfstep


def test_what_is_here_and_what_is_not() -> None:
    found = json.loads(halfstep("info", "--json").stdout)
    assert found["frameworks"]["torch"] == torch.__version__
    assert found["taken_over"]["torch"] == "taken over"
    for name, version in found["frameworks"].items():
        assert (found["taken_over"][name] == "not installed") == (version is None)
    (cpu, *_) = found["machine"]["devices"]
    assert cpu["precisions"]["fp32"]["kind"] == "native"
    assert cpu["precisions"]["tf32"] | {"slower": []} == {
        "kind": "impossible",
        "reason": "a CPU has no TF32 units",
        "slower": [],
    }
    for meter in found["meters"].values():
        assert meter.keys() in ({"absent"}, {"unit", "how"})
    text = " ".join(halfstep("info").stdout.split())
    assert "Emulated, with --emulate, on cpu tf32, fp8, " in text
    assert "bf16-lean as bf16, in PyTorch: weights in bf16 and a remainder, together fp32 bf16-sr as" in text
    assert "bf16-sr as bf16, in PyTorch: weights in bf16, rounded stochastically fp16 " in text
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        reason = cpu["precisions"][precision]["reason"]
        assert f"{precision} " in text
        assert reason.split(" (")[0] in text
