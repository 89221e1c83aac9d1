"""DeepSpeed's configuration: what it asks for, what of it yields, what is refused. DeepSpeed is not imported."""

from __future__ import annotations

from typing import Any

import pytest

from halfstep.integrations.deepspeed import asked, in_fp32, not_followed

Config = dict[str, Any]


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"bf16": {"enabled": True}}, [("DeepSpeed's bf16", "bf16")]),
        ({"bfloat16": {"enabled": True}}, [("DeepSpeed's bfloat16", "bf16")]),
        ({"fp16": {"enabled": True, "initial_scale_power": 8}}, [("DeepSpeed's fp16", "fp16")]),
        (
            {"torch_autocast": {"enabled": True, "dtype": "float16"}},
            [("DeepSpeed's torch_autocast", "fp16")],
        ),
        ({"torch_autocast": {"enabled": True}}, [("DeepSpeed's torch_autocast", "bf16")]),
        ({"bf16": {"enabled": False}, "fp16": {}}, []),
        ({"bf16": None}, []),
    ],
)
def test_what_the_configuration_asks_for(config: Config, found: list[tuple[str, str]]) -> None:
    assert list(asked(config)) == found


def test_its_precision_yields_and_all_else_stays() -> None:
    config = {
        "train_batch_size": 8,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "communication_data_type": "bf16",
        "data_types": {"grad_accum_dtype": "bf16", "keep_in_fp32_modules": ["norm"]},
        "zero_optimization": {"stage": 2},
    }
    assert in_fp32(config) == {
        "train_batch_size": 8,
        "data_types": {"keep_in_fp32_modules": ["norm"]},
        "zero_optimization": {"stage": 2},
    }
    assert "bf16" in config, "the script's own is left as it is"


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, ["offloading to NVMe"]),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, []),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, ["zero_quantized_weights"]),
        ({"optimizer": {"type": "OneBitAdam"}}, ["optimizer OneBitAdam"]),
        ({"optimizer": {"type": "Adam"}}, []),
        ({"tensor_parallel": {"autotp_size": 2}}, ["tensor parallelism"]),
        ({"sequence_parallel_size": 2}, ["sequence parallelism"]),
        ({"hybrid_engine": {"enabled": True}}, ["hybrid engine"]),
        ({"compile": {"deepcompile": True}}, ["DeepCompile"]),
        ({}, []),
    ],
)
def test_what_no_recipe_can_follow(config: Config, refused: list[str]) -> None:
    assert list(not_followed(config)) == refused
