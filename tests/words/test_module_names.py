"""A module's path in a sentence is told from a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halfstep.diagnosis.model import Finding
from halfstep.report.diagnosis import where
from halfstep.words.module_names import shown


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("2", "module 2"),
        ("0.1", "module 0.1"),
        ("blocks.3.attn", "blocks.3.attn"),
        ("1.attn", "1.attn"),
        ("", "code outside of modules"),
    ],
)
def test_a_path_of_numbers_alone_is_called_a_module(path: str, said: str) -> None:
    assert shown(path) == said


def test_a_finding_is_in_a_module() -> None:
    finding = Finding(where="2", operation="mm", direction="forward", step=11)
    assert where(finding) == "in module 2, mm, forward, step 12"
    assert where(replace(finding, where="")) == "outside of modules, mm, forward, step 12"
