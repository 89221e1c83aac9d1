"""``--on`` and ``--resources``."""

from __future__ import annotations

import pytest

from halfstep.comparison.cluster.resources import parse_on, parse_resources, places, wanted
from halfstep.errors import UsageError


@pytest.mark.parametrize("text", ["", "ray", "ray://head", "ray://10.0.0.1:10001"])
def test_a_cluster_is_named(text: str) -> None:
    assert parse_on(text) == text


@pytest.mark.parametrize("text", ["slurm", "ray:", "ray://", "ray://a b", "ray://a/b", "Ray", "http://a"])
def test_what_names_no_cluster_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give ray for this machine, or ray://HOST"):
        parse_on(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [("", ""), ("gpu=1", "gpu=1"), (" cpu = 8 , gpu=0.5 ", "cpu=8,gpu=0.5"), ("tpu-v4=2.0", "tpu-v4=2"), ("a=1,", "a=1")],
)  # fmt: skip
def test_resources_are_read(text: str, read: str) -> None:
    assert parse_resources(text) == parse_resources(parse_resources(text)) == read


@pytest.mark.parametrize("text", ["gpu", "gpu=", "=1", "gpu=0", "gpu=-1", "gpu=nan", "gpu=inf", "gpu=1e999", ",", "a b=1"])  # fmt: skip
def test_resources_that_say_no_amount_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--resources was given .*gpu=1"):
        parse_resources(text)


@pytest.mark.parametrize(
    ("text", "total", "gpus", "want", "room"),
    [
        ("", {"CPU": 8.0}, False, {"CPU": 8.0}, 1),
        ("", {"CPU": 8.0, "GPU": 4.0}, True, {"GPU": 1.0}, 4),
        ("", {"CPU": 8.0}, True, {"GPU": 1.0}, 0),
        ("cpu=3", {"CPU": 8.0, "GPU": 4.0}, True, {"CPU": 3.0}, 2),
        ("CPU=2,gpu=2,big=1", {"CPU": 64.0, "GPU": 8.0, "big": 3.0}, True, {"CPU": 2.0, "GPU": 2.0, "big": 1.0}, 3),
        ("big=1", {"CPU": 64.0}, False, {"big": 1.0}, 0),
    ],
)  # fmt: skip
def test_a_machine_has_room_for_as_many_blocks_as_its_scarcest_resource(
    text: str, total: dict[str, float], gpus: bool, want: dict[str, float], room: int
) -> None:
    assert wanted(text, total, gpus) == want
    assert places(want, total) == room
