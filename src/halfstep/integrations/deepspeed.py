"""DeepSpeed: its configuration's own precision yields to the recipe, and its engine's steps are followed.

Under a recipe the engine is one that trains in fp32: its forward pass is the recipe's region, and the loss scale is
the recipe's. An import alone is none of training: libraries import what is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from halfstep.codec import JsonObject
from halfstep.integrations import deepspeed_engine
from halfstep.integrations.attached import Attached

#: sections of the configuration -> the format that they ask for; torch_autocast names its own
_SECTIONS = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "torch_autocast": ""}

_TORCH_NAMES = {"bfloat16": "bf16", "float16": "fp16"}

#: keys that name a dtype for communication
_COMMUNICATION = ("communication_data_type", "seq_parallel_communication_data_type")
_DATA_TYPES = ("param_dtype", "grad_accum_dtype", "buffer_dtype")

#: parts of the configuration's section on ZeRO that compute or keep weights and gradients elsewhere
_ZERO = (
    "zenflow",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
)
#: where offloaded weights and states may go
_OFFLOAD = ("offload_param", "offload_optimizer")

#: optimizers that communicate gradients of one bit
_ONE_BIT = ("onebitadam", "onebitlamb", "zerooneadam")


def install(deepspeed: ModuleType, attached: Attached) -> None:
    """Take over ``deepspeed``, just imported."""
    attached.require("deepspeed", deepspeed.__version__)
    config = import_module("deepspeed.runtime.config").DeepSpeedConfig
    attached.takeover.patches.wrap(
        config, "_initialize_params", lambda original: _reading(original, attached)
    )
    deepspeed_engine.follow(attached)


def _reading(original: Callable[..., None], attached: Attached) -> Callable[..., None]:
    def _initialize_params(config: Any, given: JsonObject) -> None:
        for what, precision in asked(given):
            attached.asks_for(what, precision)
        if not attached.as_is:
            for what in not_followed(given):
                deepspeed_engine.refuse(attached, what)
            given = in_fp32(given)
        original(config, given)

    return _initialize_params


def asked(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the configuration asks for, in words, and the format."""
    for name, format in _SECTIONS.items():
        if _section(config, name).get("enabled"):
            dtype = str(_section(config, name).get("dtype", "bf16"))
            yield f"DeepSpeed's {name}", format or _TORCH_NAMES.get(dtype, dtype)


def not_followed(config: Mapping[str, Any]) -> Iterator[str]:
    """What the configuration asks for and no recipe can follow, in words."""
    zero = _section(config, "zero_optimization")
    for offload in (_section(zero, name) for name in _OFFLOAD):
        if offload.get("device") == "nvme" or offload.get("super_offload"):
            yield f"offloading to {'NVMe' if offload.get('device') == 'nvme' else 'a superchip'}"
    yield from (name for name in _ZERO if zero.get(name))
    kind = str(_section(config, "optimizer").get("type"))
    if kind.lower() in _ONE_BIT:
        yield f"optimizer {kind}"
    if _section(config, "hybrid_engine").get("enabled"):
        yield "hybrid engine"
    if _section(config, "compile").get("deepcompile"):
        yield "DeepCompile"
    if _section(config, "tensor_parallel").get("autotp_size", 0) > 1:
        yield "tensor parallelism"
    if config.get("sequence_parallel_size", 1) > 1:
        yield "sequence parallelism"


def in_fp32(config: Mapping[str, Any]) -> JsonObject:
    """The configuration of an engine that trains in fp32, all else as it was."""
    off = (*_SECTIONS, *_COMMUNICATION, "amp")
    made = {name: value for name, value in config.items() if name not in off}
    if types := _section(config, "data_types"):
        made["data_types"] = {name: value for name, value in types.items() if name not in _DATA_TYPES}
    return made


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}
