"""A bound on what rounding does to one step of a linear model with squared errors."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

#: unit roundoff
U = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}


def gradient_of_squares(x: Array, y: Array, w: Array, u: float) -> tuple[Array, Array]:
    """The gradient of mean((x w - y)^2) by w in float64, and how far one computed in roundings of ``u`` may be off.

    x, y and w are exact in the format. Sums of k products are off by gamma(k) sum |products|, with
    gamma(k) = k u / (1 - k u) (Higham 2002, section 3.1). A prediction p = x w is such a sum, rounded once more; the
    residual's gradient r = 2/n (p - y) is computed in fp32 and cast: one rounding, and one for fp32's own. The
    gradient x^T r is a sum over the n rows, rounded once more.

    Args:
        x: inputs, (n, k).
        y: targets, (n,).
        w: weights, (k,).
        u: the format's unit roundoff.

    Returns:
        gradient, (k,), and its bound, (k,).
    """
    n, k = x.shape
    residual = 2 / n * (x @ w - y)
    off = 2 / n * _gamma(k + 1, u) * (np.abs(x) @ np.abs(w))
    off = off + 2 * u * (np.abs(residual) + off)
    bound = np.abs(x).T @ off + _gamma(n + 1, u) * (np.abs(x).T @ (np.abs(residual) + off))
    return x.T @ residual, bound


def _gamma(k: int, u: float) -> float:
    return k * u / (1 - k * u)
