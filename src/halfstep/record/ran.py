"""What a trial ran as: measured formats of its products and weights, beside what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halfstep.record.record import Record

#: a format with a smaller share of the products is not named beside a larger one
WORTH_NAMING = 0.05

#: a trial ran as asked where at least this share of its products did
MOST = 0.5

#: shares of two trials that differ by less are the same: the FLOPs of one program do not vary
SAME_SHARE = 0.005

#: the kind of product whose presence says that all of them are computed in fp32 units
EVERY_PRODUCT = "product"

#: the setting for sums that is off by default; the others let parts of a long sum be added in 16 bits, and are on
FP16_SUMS = "allow_fp16_accumulation"

NOT_REACHED = "products are counted in the second step, which was not reached"


@dataclass(frozen=True)
class Ran:
    """What was measured of a trial, and what had been asked of it."""

    #: the format that products were to run in, by the name under which they are counted; empty for ``as-is``
    asked: str = ""
    asked_weights: str = ""  #: the format that weights were to be stored in; empty for ``as-is``
    #: format -> share of the FLOPs of matrix products; empty where there were none, or see ``unknown``
    products: Mapping[str, float] = field(default_factory=dict)
    unknown: str = ""  #: why the products were not counted; empty where they were
    #: the formats that weights are stored in, the largest first; empty where that was not measured
    weights: tuple[str, ...] = ()
    #: the formats in which ranks sum gradients, the largest first; empty where there is one rank
    summed: tuple[str, ...] = ()
    #: on a GPU, the settings of PyTorch that let the 16-bit products that ran be summed in fewer bits than fp32 has
    sums: tuple[str, ...] = ()
    fp32_units: tuple[str, ...] = ()  #: the kinds of 16-bit product that were computed in fp32 units
    emulated: str = ""  #: how an emulated precision is described; empty where nothing is emulated
    #: the device whose autocast lists were applied instead of this one's; empty for this one's, and if no product ran
    #: in 16 bits
    lists: str = ""
    #: the framework that computed 16-bit products in software; empty if units did, and if none ran
    software: str = ""
    #: the kind of region in which the precision held, as in the record; empty where the record has none
    region: str = ""

    @classmethod
    def of(cls, record: Record) -> Ran:
        """From a record: its ``takeover``, ``sample``, ``stored`` and ``region`` events."""
        takeover, sample = record.takeover, record.sample
        shares = _shares(sample.get("matmul_flops"))
        unknown = "" if shares is not None else _text(sample.get("absent")) or NOT_REACHED
        planned = _texts(takeover.get("fp32_units"))
        used = _texts(sample["fp32_units"]) if "fp32_units" in sample else planned
        # Where only some kinds were planned and none was recorded, it is not known whether the program has any of them.
        known = "fp32_units" in sample or EVERY_PRODUCT in planned
        named = [name for name in ("bf16", "fp16") if name in worth_naming(shares or {})]
        sixteen = any(name in ("bf16", "fp16") for name in shares or {})
        in_software = set(named) & {*_texts(takeover.get("software_formats", named))}
        return cls(
            asked=_text(takeover.get("asked")),
            asked_weights=_text(takeover.get("asked_weights")),
            products=shares or {},
            unknown=unknown,
            weights=record.stored.formats("weights"),
            summed=_summed(sample.get("reduced_bytes")),
            sums=_texts(sample.get("sums")),
            fp32_units=((EVERY_PRODUCT,) if EVERY_PRODUCT in planned else used)
            if used and known and sixteen
            else (),
            emulated=_text(takeover.get("described")) if takeover.get("emulated") is True else "",
            lists=_text(takeover.get("lists")) if sixteen else "",
            software=_text(takeover.get("software")) if in_software else "",
            region=_text(record.region.get("kind")),
        )

    @property
    def main(self) -> str:
        """The format that most of the products ran in; empty where there are none, or none were counted."""
        return max(self.products, key=lambda name: self.products[name], default="")

    @property
    def computed_otherwise(self) -> bool:
        """Whether most of the products ran in another format than was asked for."""
        return bool(self.asked and self.products) and self.products.get(self.asked, 0.0) < MOST

    @property
    def stored_otherwise(self) -> bool:
        """Whether no weights at all are stored as asked; that some are not is allowed, as frozen weights may stay."""
        return bool(self.asked_weights and self.weights) and self.asked_weights not in self.weights

    @property
    def otherwise(self) -> bool:
        """Whether what ran differs from what was asked for."""
        return self.computed_otherwise or self.stored_otherwise

    @property
    def in_fp32_units(self) -> bool:
        """Whether all its 16-bit products were computed in fp32 units, which take as long as in fp32."""
        return EVERY_PRODUCT in self.fp32_units

    @property
    def without_units(self) -> bool:
        """Whether no units of the device are faster than fp32's for its 16-bit products."""
        return self.in_fp32_units or bool(self.software)

    def same_as(self, other: Ran) -> bool:
        """Whether both ran the same: identical formats of products and of weights, in the same units."""
        if self.unknown or other.unknown:
            return False
        shares = {*self.products, *other.products}
        alike = all(abs(self.products.get(f, 0.0) - other.products.get(f, 0.0)) < SAME_SHARE for f in shares)
        return alike and all(
            getattr(self, name) == getattr(other, name)
            for name in ("weights", "summed", "sums", "fp32_units", "emulated", "lists", "software")
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(x for x in value if isinstance(x, str)) if isinstance(value, list | tuple) else ()


def _shares(flops: Any) -> dict[str, float] | None:
    """Each format's share of the FLOPs; empty where there are no products, None where none were counted."""
    if not isinstance(flops, Mapping):
        return None
    known = {
        str(f): float(n)
        for f, n in flops.items()
        if isinstance(n, int | float) and math.isfinite(n) and n > 0
    }
    total = sum(known.values())
    return {f: n / total for f, n in known.items()}


def _summed(sizes: Any) -> tuple[str, ...]:
    """The formats of what ranks sum that have a share worth naming."""
    return tuple(worth_naming(_shares(sizes) or {}))


def worth_naming(shares: Mapping[str, float]) -> list[str]:
    """The formats that have a share worth naming, the largest first."""
    return sorted((f for f in shares if shares[f] >= WORTH_NAMING), key=lambda f: -shares[f])
