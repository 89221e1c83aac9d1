"""What can be wrong with a scaler's arguments and gradients, and the sentences that say so."""

from __future__ import annotations

import math
import sys
import warnings

import torch
from torch.optim import Optimizer

from halfstep.errors import HalfstepError, UsageError
from halfstep.pytorch.loss_scaling.gradients import values_of

_PACKAGE = __package__ + "."


class ScalerMisuse(UsageError, RuntimeError, ValueError, AssertionError):
    """The scaler's methods were called in an order, or on tensors, that cannot work.

    It is also each of the errors that torch.amp.GradScaler raises in these cases.
    """


class ScaleCollapse(HalfstepError, ArithmeticError):
    """Step after step was skipped with the loss scale at its floor: a smaller scale is not the cure."""


def where(optimizer: Optimizer | None) -> str:
    """Which of the optimizer's gradients are not finite now."""
    named = [
        (f"param_groups[{i}]['params'][{j}]", p)
        for i, group in enumerate(optimizer.param_groups if optimizer else ())
        for j, p in enumerate(group["params"])
        if p.grad is not None
    ]
    bad = [(name, p) for name, p in named if not torch.isfinite(values_of(p.grad)).all()]
    if not bad:
        return "the gradients are no longer there to be looked at"
    name, p = bad[0]
    return (
        f"{len(bad)} of {len(named)} gradients are not finite, the first is {name} of shape {tuple(p.shape)}"
    )


def check_factors(growth: float, backoff: float, interval: int, patience: int) -> None:
    if not growth > 1:
        raise UsageError(f"growth_factor is {growth:g}; it must be above 1, for example 2.")
    if not 0 < backoff < 1:
        raise UsageError(f"backoff_factor is {backoff:g}; it must lie between 0 and 1, for example 0.5.")
    if interval < 1 or patience < 1:
        raise UsageError(
            f"growth_interval is {interval} and floor_patience {patience}; each must be 1 or more updates."
        )


def check_scale(scale: float, floor: float, what: str) -> None:
    if not math.isfinite(scale):
        raise UsageError(f"{what} is {scale:g}; it must be finite and at least min_scale, {floor:g}.")
    if scale < floor:
        raise UsageError(
            f"{what} is {scale:g}; it must be finite and at least min_scale, {floor:g}: "
            "give a smaller min_scale, a power of two, if that is meant."
        )


def warn_if_inexact(value: float, what: str, least: float = 0.0, most: float = math.inf) -> None:
    """PyTorch takes any factor, so a drop-in must; only with powers of two is scaling exact.

    Args:
        value: what was given.
        what: its name.
        least, most: the powers of two that are allowed, of which the sentence names the nearest.
    """
    mantissa, exponent = math.frexp(value)
    if mantissa != 0.5 and math.isfinite(value) and value > 0:
        near = (math.ldexp(1.0, exponent - 1), math.ldexp(1.0, exponent))
        allowed = " or ".join(f"{power:g}" for power in near if least <= power <= most)
        warn(f"{what} is {value:g}, which is not a power of two such as {allowed}: unscaling rounds.")


def warn(sentence: str) -> None:
    """A UserWarning at the line outside this package that led to it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, stacklevel=level)
