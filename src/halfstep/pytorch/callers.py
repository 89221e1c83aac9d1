"""Who calls PyTorch: the script, an installed library, PyTorch itself, or halfstep."""

from __future__ import annotations

import sys
from types import FrameType
from typing import NamedTuple


class Caller(NamedTuple):
    """The name of the calling module, and its file."""

    module: str
    file: str

    @classmethod
    def of(cls, frame: FrameType) -> Caller:
        """The caller that runs ``frame``."""
        return cls(frame.f_globals.get("__name__", ""), frame.f_code.co_filename)

    @property
    def is_script(self) -> bool:
        """Whether it is neither PyTorch, whose checkpointing opens regions, nor DeepSpeed, which is configured."""
        return bool(self.file) and not self.module.startswith(("torch.", "halfstep.", "deepspeed."))

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter of halfstep to a framework."""
        return self.module.startswith("halfstep.integrations.")

    @property
    def is_library(self) -> bool:
        """Whether it is an installed package."""
        return any(folder in self.file for folder in ("site-packages", "dist-packages"))


def asked_by_script(depth: int = 1) -> bool:
    """Whether the script's own code, not a library's, calls the function that asks; ``depth`` frames further out."""
    caller = Caller.of(sys._getframe(1 + depth))
    return caller.is_script and caller.module != "torch" and not caller.is_library
