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
    """Whether the script's own code, not a library's, calls the function that asks; ``depth`` frames further out.

    Frames in which PyTorch hands a call on, as under ``torch.set_default_device``, are passed over.
    """
    frame: FrameType | None = sys._getframe(1 + depth)
    while frame is not None and frame.f_code.co_name == "__torch_function__":
        if Caller.of(frame).is_script:
            break
        frame = frame.f_back
    if frame is None:
        return False
    caller = Caller.of(frame)
    return caller.is_script and caller.module != "torch" and not caller.is_library


def asked_to_load(depth: int = 1) -> bool:
    """Whether Safetensors calls the function that asks: it reads a model's tensors to load a file into them."""
    return Caller.of(sys._getframe(1 + depth)).module.startswith("safetensors.")
