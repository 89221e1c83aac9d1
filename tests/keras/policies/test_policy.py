"""Programs that ask for 16 bits themselves run in the recipe's precision, from the values that they loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..conftest import BACKENDS, SIXTEEN, Turn

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("backend", BACKENDS)]

Run = Callable[[str], dict[str, Turn]]
POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


@pytest.mark.parametrize("recipe", SIXTEEN)
def test_a_script_with_16_bits_of_its_own_trains_as_without_them(
    in_turn: Run, backend: str, recipe: str
) -> None:
    facts = in_turn(backend)[f"sixteen-{recipe}"].facts
    for how, numbers in facts["the same"].items():
        assert numbers == facts["plain"], how
    assert facts["quantised"] == "int8_from_mixed_bfloat16"
    assert (facts["variable"], facts["float64"]) == ("float32", "float64")


@pytest.mark.parametrize("recipe", SIXTEEN)
def test_weights_of_a_16_bit_file_are_fp32_and_hold_its_values(
    in_turn: Run, backend: str, recipe: str
) -> None:
    saved = in_turn(backend)["sixteen-as-is"].facts["saved"]
    found = in_turn(backend)[f"sixteen-{recipe}"].facts
    for name, loaded in found["loaded"].items():
        assert loaded["values"] == [saved[name], saved[name]], name
        assert loaded["dtypes"] == ["float32"], name
        # The last layer was made in float32, beside layers of 16 bits: a wish.
        layers = {"dense": "float32", "scale": POLICIES[recipe], "batch_normalization": POLICIES[recipe]}
        assert loaded["policies"] == layers, name
    assert found["small"] == POLICIES[recipe], "a file of float32 does not wish it"


def test_each_way_of_asking_makes_as_is_a_row(in_turn: Run, backend: str) -> None:
    own = in_turn(backend)["sixteen-fp32"].record.own_amp
    assert {
        "dtype='bfloat16'",
        "dtype='float16'",
        "dtype='mixed_bfloat16'",
        "Variable(dtype='bfloat16')",
        "Input(dtype='float16')",
        "set_floatx('bfloat16')",
        "set_dtype_policy('mixed_float16')",
    } <= set(own)
    assert in_turn(backend)["sixteen-as-is"].record.own_amp, "its files"
