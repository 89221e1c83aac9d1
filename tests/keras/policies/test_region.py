"""16 bits begin where a layer computes and end where a model returns to the script."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ..conftest import BACKENDS, Turn
from ..rounding import U

pytestmark = pytest.mark.slow

Run = Callable[[str], dict[str, Turn]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_in_a_float_input_reach_the_embedding_as_they_are(in_turn: Run, backend: str) -> None:
    rows = in_turn(backend)["boundaries"].facts["rows"]
    for how, found in rows.items():
        assert found == [300, 301, 4097, 12345], how


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_that_prepare_data_compute_in_fp32(in_turn: Run, backend: str) -> None:
    """1000.5 and 1001.25 are exact in fp32, and 1000 and 1000 in bf16."""
    facts = in_turn(backend)["boundaries"].facts
    np.testing.assert_allclose(facts["normalised"], [0.5, 1.25], rtol=4 * U["fp32"])
    assert facts["rescaled"] == [1000.5 / 256, 1001.25 / 256]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_model_returns_is_fp32_and_probabilities_sum_to_one(in_turn: Run, backend: str) -> None:
    facts = in_turn(backend)["boundaries"].facts
    assert facts["dtypes"] == ["float32"]
    assert facts["inside"] == "bfloat16"
    logits, p, q = (np.array(facts["outputs"][name]) for name in ("logits", "p", "q"))
    exact = np.exp(logits - logits.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    # exp of a number x within 1 ulp of x is off by |x|, a sum of 500 by 500 roundings at most: Higham 2002, 4.2
    np.testing.assert_allclose(p, exact, rtol=(500 + 2 * np.abs(logits).max() * 2) * U["fp32"])
    np.testing.assert_allclose(q, 1 / (1 + np.exp(-logits)), rtol=(8 + 2 * np.abs(logits).max()) * U["fp32"])
    np.testing.assert_allclose(p.sum(1), 1, rtol=500 * U["fp32"])


def test_tensorflow_promotes_what_the_recipe_narrowed(in_turn: Run) -> None:
    facts = in_turn("tensorflow")["operands"].facts
    for name, results in facts["found"].items():
        for found in results:
            np.testing.assert_allclose(found, facts["exact"][name], rtol=1e-6, atol=1e-6, err_msg=name)
    assert facts["tape"] == "float32"
    assert np.isfinite(facts["fit"]).all()
