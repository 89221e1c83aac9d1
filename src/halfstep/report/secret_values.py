"""Masks the values of secret arguments, as a page may be shown to others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

#: what stands in place of a secret
MASK = "***"

#: the value of an option is a secret if its name ends so: ``--api-key``, ``--hf_token``, ``wandb.password``
_SECRET = re.compile(
    r"(^|[-_.])(api)?(token|key|password|passwd|passphrase|pwd|pass|secret|credentials?|auth|bearer)$",
    re.IGNORECASE,
)

#: ``user:password@`` in an address
_IN_ADDRESS = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]*@")


def masked(value: Any) -> Any:
    """The JSON of a comparison or diagnosis, with the secrets in its commands masked."""
    if isinstance(value, Mapping):
        return {
            key: mask(found) if key == "command" and _is_command(found) else masked(found)
            for key, found in value.items()
        }
    # The many numbers of a long run need no call each.
    if isinstance(value, list) and not {dict, list}.isdisjoint(map(type, value)):
        return [masked(found) for found in value]
    return value


def mask(command: Sequence[str]) -> list[str]:
    """``["--api-key", "abc", "--token=abc"]`` as ``["--api-key", "***", "--token=***"]``."""
    made: list[str] = []
    secret = False
    for argument in command:
        name, equals, _ = argument.partition("=")
        if secret and not argument.startswith("--"):
            made.append(MASK)
        elif equals and _SECRET.search(name):
            made.append(f"{name}={MASK}")
        else:
            made.append(_IN_ADDRESS.sub(rf"\1:{MASK}@", argument))
        secret = argument.startswith("-") and not equals and _SECRET.search(name) is not None
    return made


def _is_command(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(argument, str) for argument in value)
