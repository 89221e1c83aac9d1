"""The frameworks that halfstep knows of: which versions it takes over, and which of them are installed here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from halfstep.errors import Unsupported


@dataclass(frozen=True)
class Framework:
    """One framework."""

    module: str  #: what a program imports
    oldest: tuple[int, ...]  #: the oldest version that halfstep's tests run with, as numbers
    taken_over: str  #: in words, what halfstep does in it
    distributions: tuple[str, ...] = ()  #: the names under which it may be installed

    @property
    def oldest_version(self) -> str:
        """``oldest`` as it is written, e.g. ``2.11``."""
        return ".".join(map(str, self.oldest))

    @property
    def version(self) -> str | None:
        """The installed version, found without importing it; None where it is not installed."""
        from importlib import metadata  # 20 ms, and `random`, which may be a module of the program's own

        for name in self.distributions or (self.module,):
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None

    def too_old(self, version: str) -> bool:
        """Whether ``version`` is older than the oldest that halfstep takes over."""
        return tuple(map(int, re.findall(r"\d+", version)[: len(self.oldest)])) < self.oldest

    def check(self, version: str) -> None:
        """Raise unless ``version`` can be taken over.

        Raises:
            Unsupported: it is too old; the message names the oldest that is not.
        """
        if self.too_old(version):
            raise Unsupported(
                f"{self.module} {version} is too old for halfstep, which takes over {self.module} "
                f"{self.oldest_version} or later; run `pip install '{self.module}>={self.oldest_version}'`."
            )


_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tensorflow-rocm", "tf-nightly")

#: pytorch-lightning brings the module along
_FABRIC = ("lightning_fabric", "pytorch_lightning")

FRAMEWORKS = {
    row.module: row
    for row in (
        Framework("torch", (2, 11), "taken over"),
        Framework("lightning", (2, 6), "taken over, through torch"),
        Framework("pytorch_lightning", (2, 6), "taken over, through torch"),
        Framework("lightning_fabric", (2, 6), "taken over, through torch", _FABRIC),
        Framework("transformers", (5,), "taken over, through torch"),
        Framework("accelerate", (1, 15), "taken over, through torch"),
        Framework("deepspeed", (0, 19), "taken over, through torch"),
        Framework("keras", (3, 15), "taken over, on TensorFlow, PyTorch and JAX"),
        Framework("tensorflow", (2, 21), "taken over, through keras", _TENSORFLOW),
        Framework("jax", (0, 10), "taken over, through keras"),
    )
}
