"""``halfstep diagnose`` of Keras on PyTorch: layers and cures by Keras's names, steps of ``fit``, gradients unscaled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfstep.record import read

from ...cli.running import PROGRAMS, halfstep
from ..conftest import environment, skip_without


@pytest.mark.long
def test_a_layer_of_keras_and_the_cure_are_named_on_pytorch(tmp_path: Path) -> None:
    skip_without("keras", "torch")
    done = halfstep(
        "diagnose", "--precision", "fp16:loss_scale=256", "--json", "-", "--out", "out",
        str(PROGRAMS / "keras" / "diagnosed.py"), cwd=tmp_path, env=environment("torch"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (finding,) = found["findings"]
    assert (finding["kind"], finding["where"], finding["direction"]) == ("overflow", "large", "forward")
    assert finding["source"].endswith("diagnosed.py:14")  # the call of fit, not a line of Keras's
    assert "fp16:loss_scale=256:keep=large" in [remedy["recipe"] for remedy in finding["remedies"]]
    assert [layer["module"] for layer in found["layers"]] == ["first", "large", "last"]

    def largest(precision: str, kind: str) -> float:
        record = read(next((tmp_path / "out" / "trials").glob(f"{precision}-seed0-repeat0.jsonl")))
        seen = [e for e in record.watched if e["what"] == "numbers" and e["step"] == 0]
        return next(float(e["largest"]) for e in seen if (e["kind"], e["module"]) == (kind, "last"))

    # fp16's bound: 2^-11 per rounding, of the output, of its gradient and of the product
    for kind in ("activations", "gradients"):
        assert largest("fp16_loss_scale=256", kind) == pytest.approx(largest("fp32", kind), rel=2**-8), kind
