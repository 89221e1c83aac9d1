"""A machine as values: its devices, and how each computes products in each precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

#: how products are computed: by units of the device, by those of fp32, in software (which is slower), or not at all
Kind = Literal["native", "fp32_units", "emulated", "impossible"]


@dataclass(frozen=True)
class Support:
    """How a precision's products are computed on a device."""

    kind: Kind
    reason: str = ""  #: why, in words that can follow a colon
    slower: tuple[str, ...] = ()  #: kinds of products that the native units compute more slowly than fp32


@dataclass(frozen=True)
class Device:
    """A device that a program may train on."""

    device: str = ""  #: ``cpu``, ``cuda:0``, or as its framework calls it
    name: str = ""  #: the maker's name for it
    capability: str | None = None  #: the compute capability of an NVIDIA GPU, as ``9.0``
    precisions: Mapping[str, Support] = field(default_factory=dict)  #: what it can do in each precision


@dataclass(frozen=True)
class Processor:
    """A CPU: the maker's name for it, the architecture, the cores, and its flags of units for 16-bit numbers.

    ``onednn``: the precisions that PyTorch gives to oneDNN; None where another framework described the CPU.
    """

    OMITTED: ClassVar = ("onednn",)
    model: str = ""
    architecture: str = ""
    cores: int | None = None
    flags: tuple[str, ...] = ()
    onednn: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Machine:
    """A machine as a framework sees it: PyTorch's version, the threads it uses, and the devices, the CPU first."""

    torch: str | None = None
    threads: int | None = None
    cpu: Processor = Processor()
    devices: tuple[Device, ...] = ()
