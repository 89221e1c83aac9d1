"""What a machine can do is a rule over evidence; the evidence is compared with what the system itself says."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from halfstep import codec
from halfstep.errors import UsageError
from halfstep.machine.support import Support
from halfstep.pytorch import capabilities
from halfstep.pytorch.capabilities import Cpu, cpu_support, cuda_support, support


def machine(flags: str = "", onednn: str = "", architecture: str = "x86_64") -> Cpu:
    return Cpu(architecture, frozenset(flags.split()), frozenset(onednn.split()))


ZEN3 = machine("avx2")
SKYLAKE = machine("avx2 avx512_f", "bf16")  # oneDNN takes bf16 on any AVX-512, and is slower than fp32 at it
ZEN5 = machine("avx2 avx512_f avx512_bf16", "bf16")
SAPPHIRE_RAPIDS = machine("avx2 avx512_f avx512_bf16 avx512_fp16 amx_bf16 amx_tile", "bf16 fp16")
SIERRA_FOREST = machine("avx2 avx_ne_convert", "bf16 fp16")
WITHOUT_ONEDNN = machine("avx2 avx512_f avx512_bf16")
GRAVITON3 = machine("neon bf16 sve_bf16", "bf16", "aarch64")
MACBOOK = machine("neon bf16", "", "arm64")
SLOWER = ("short_attention_backward", "transposed_convolution")


@pytest.mark.parametrize(
    ("here", "bf16", "fp16"),
    [
        (ZEN3, "fp32_units", "fp32_units"),
        (SKYLAKE, "fp32_units", "fp32_units"),
        (ZEN5, "native", "fp32_units"),
        (SAPPHIRE_RAPIDS, "native", "native"),
        (SIERRA_FOREST, "fp32_units", "fp32_units"),
        (WITHOUT_ONEDNN, "fp32_units", "fp32_units"),
        (GRAVITON3, "fp32_units", "fp32_units"),
        (MACBOOK, "fp32_units", "fp32_units"),
    ],
)
def test_cpu(here: Cpu, bf16: str, fp16: str) -> None:
    assert cpu_support("bf16", here).kind == bf16
    assert cpu_support("fp16", here).kind == fp16
    assert cpu_support("tf32", here) == Support("impossible", "a CPU has no TF32 units")


@pytest.mark.parametrize(
    ("here", "expected"),
    [(ZEN3, ["bf16", "fp16"]), (ZEN5, ["fp16"]), (SAPPHIRE_RAPIDS, []), (MACBOOK, [])],
)
def test_pytorchs_own_products_are_software_where_a_cpu_has_no_units(
    here: Cpu, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "cpu", lambda: here)
    assert [p for p in ("bf16", "fp16") if capabilities.in_software(p, "cpu")] == expected


def test_reasons_name_the_evidence() -> None:
    assert cpu_support("bf16", ZEN5) == Support(
        "native", "the CPU has bf16 units (avx512_bf16) and oneDNN uses them", SLOWER
    )
    assert cpu_support("bf16", SAPPHIRE_RAPIDS) == Support(
        "native",
        "the CPU has bf16 units (amx_bf16, avx512_bf16) and oneDNN uses them",
        ("short_attention_backward",),
    )
    assert cpu_support("fp16", SAPPHIRE_RAPIDS) == Support(
        "native",
        "the CPU has fp16 units (avx512_fp16) and oneDNN uses them",
        ("convolution_backward", *SLOWER),
    )
    assert cpu_support("fp16", ZEN5).reason == "this CPU has no fp16 units (amx_fp16 or avx512_fp16)"
    assert cpu_support("bf16", WITHOUT_ONEDNN).reason == (
        "this PyTorch does not use the CPU's bf16 units (no oneDNN for them)"
    )


@pytest.mark.parametrize(
    ("capability", "tf32", "bf16", "fp16"),
    [
        ((6, 0), "impossible", "emulated", "fp32_units"),
        ((7, 0), "impossible", "emulated", "native"),
        ((7, 5), "impossible", "emulated", "native"),
        ((8, 0), "native", "native", "native"),
        ((9, 0), "native", "native", "native"),
        ((12, 0), "native", "native", "native"),
    ],
)
def test_cuda(capability: tuple[int, int], tf32: str, bf16: str, fp16: str) -> None:
    kinds = [cuda_support(precision, capability).kind for precision in ("tf32", "bf16", "fp16")]
    assert kinds == [tf32, bf16, fp16]


def test_cuda_reasons() -> None:
    assert cuda_support("tf32", (7, 5)).reason == "compute capability 7.5; tf32 matrix units need 8.0"
    assert cuda_support("fp16", (9, 0)).reason == "compute capability 9.0: fp16 matrix units"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device() -> None:
    assert support("bf16", "cuda") == Support("impossible", "PyTorch finds no CUDA device")
    assert support("fp32", "cuda").kind == "native"


@pytest.mark.gpu
def test_cuda_agrees_with_pytorch() -> None:
    assert (support("bf16", "cuda").kind == "native") == torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    assert (support("tf32", "cuda").kind == "native") == torch.cuda.is_tf32_supported()


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_accelerators_do_what_autocast_takes_there(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = "PyTorch's autocast on {} takes {}; untested, as halfstep has not run there"
    for precision in ("bf16", "fp16"):
        assert support(precision, device) == Support("native", taken.format(device, precision))
    assert support("fp32", device).kind == "native"
    assert support("tf32", device) == Support(
        "impossible", f"TF32 units are NVIDIA's; this device is {device}"
    )
    monkeypatch.setattr(
        torch.autocast,
        "__init__",
        lambda self, device, dtype: vars(self).update(_enabled=dtype is torch.half),
    )
    assert support("bf16", device) == Support(
        "impossible", f"PyTorch's autocast on {device} does not take bf16"
    )
    assert support("fp16", device).kind == "native"
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: False)
    assert support("fp16", device) == Support("impossible", f"PyTorch has no autocast on {device}")


def test_rocm_is_cuda_with_words_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "AMD Instinct MI300X")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 4))
    monkeypatch.setattr(
        capabilities, "_autocast_takes", lambda dtype, device: (dtype, device) == (torch.bfloat16, "cuda")
    )
    (found,) = capabilities._accelerators()
    assert (found.device, found.name, found.capability) == (
        "cuda:0",
        "AMD Instinct MI300X (ROCm 7.1)",
        None,
    )
    assert [found.precisions[name].kind for name in ("fp32", "tf32", "bf16", "fp16")] == [
        "native", "impossible", "native", "impossible"
    ]  # fmt: skip
    assert "on ROCm takes bf16; untested" in found.precisions["bf16"].reason


def test_unknown_precision() -> None:
    with pytest.raises(UsageError) as caught:
        support("fp8")
    assert str(caught.value) == "Products were asked for in 'fp8'; allowed are fp32, tf32, bf16, fp16."


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the kernel's own list is Linux's")
def test_flags_are_those_that_the_kernel_lists() -> None:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    listed = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), None)
    if listed is None:
        pytest.skip("not an x86 CPU")
    for flag, kernels in (("avx2", "avx2"), ("avx512_bf16", "avx512_bf16"), ("avx512_fp16", "avx512_fp16")):
        assert (flag in capabilities.cpu().flags) == (kernels in listed)


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="needs Linux on x86")
def test_flags_without_pytorchs_list(monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozenset(capabilities._FLAGS)
    own = capabilities._flags() & known
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert capabilities._flags() & known == own


def test_best_is_the_first_with_units_of_its_own() -> None:
    precision, reason = capabilities.best()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert support(precision, device).kind == "native"
    if precision == "fp32":
        assert reason == f"no faster units here: {support('bf16', device).reason}"


def test_best_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(capabilities, "cpu", lambda: ZEN3)
    reason = "no faster units here: this CPU has no bf16 units (amx_bf16 or avx512_bf16)"
    assert capabilities.best() == ("fp32", reason)


def test_the_module_prints_what_describe_returns() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "halfstep.pytorch.capabilities"], capture_output=True, text=True, check=True
    )
    printed = json.loads(ran.stdout)
    here = codec.write(capabilities.describe())
    assert printed | {"threads": 0} == here | {"threads": 0}
    assert printed["devices"][0]["device"] == "cpu"
    assert set(printed["devices"][0]["precisions"]) == set(capabilities.PRECISIONS)
