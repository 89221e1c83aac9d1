from __future__ import annotations

import pytest

from ..cli.running import PROGRAMS, halfstep, python
from .conftest import environment, skip_without

NUMBERS = str(PROGRAMS / "keras" / "random_numbers.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_shifted_seed_is_the_scripts_own_plus_k(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("keras", backend)
    for name, value in environment(backend).items():
        monkeypatch.setenv(name, value)
    shifted = halfstep("run", "--precision", "as-is", "--seed", "5", NUMBERS, "0")
    plain = python(NUMBERS, "5")
    assert shifted.returncode == plain.returncode == 0, shifted.stderr + plain.stderr
    assert shifted.stdout == plain.stdout
