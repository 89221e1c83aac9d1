"""The floor of the loss scale."""

from __future__ import annotations

import math

from halfstep.precisions.loss_scale import power_of_two
from halfstep.pytorch.grad_scaler.misuse import check_scale


class Floor:
    """The least scale, a power of two; a floor that the user has not given makes way for a lower scale.

    Args:
        min_scale: as given; None for 1.

    Attributes:
        given: whether the user has given it.
        scale: the least scale.

    Raises:
        UsageError: ``min_scale`` is no power of two.
    """

    def __init__(self, min_scale: float | None) -> None:
        self.given = min_scale is not None
        self.scale = 1.0 if min_scale is None else power_of_two(min_scale, "min_scale")

    def admit(self, scale: float, what: str) -> None:
        """Lower the floor for ``scale`` where none was given.

        Raises:
            UsageError: ``scale``, which is the argument ``what``, is not finite or below the floor.
        """
        if not self.given and 0 < scale < self.scale:
            self.scale = 2.0 ** math.floor(math.log2(scale))
        check_scale(scale, self.scale, what)
