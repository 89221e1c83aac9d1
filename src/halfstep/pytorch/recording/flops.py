"""FLOPs of a product, computed from the shapes of its operands, and whether these shapes suit matrix units.

The formulas are those of ``torch.utils.flop_counter``: 2 m k n for (m, k) by (k, n); rounding does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Shape = Sequence[int]
Values = Sequence[Any]


@dataclass(frozen=True)
class Product:
    """A product that ran."""

    name: str  #: the name of its operator, ``aten::mm``
    #: shape and type (the profiler's name for it) of its tensors, in order
    operands: Sequence[tuple[Shape, str]]
    flops: int

    @classmethod
    def of(cls, event: Any) -> Product | None:
        """The product of a profiler's event; None if its formula needs more than the shapes."""
        name, kinds = event.name(), event.dtypes()
        numbers = event.concrete_inputs()
        values = [
            shape if kind not in _NO_TENSOR else number
            for shape, kind, number in zip(event.shapes(), kinds, numbers, strict=True)
        ]
        formula = FORMULAS.get(name) or EMULATED[name]
        try:
            flops = int(formula(values))
        except (AssertionError, AttributeError, IndexError, TypeError, ValueError):
            return None
        return cls(name, operands_of(name, values, kinds), flops)


#: the profiler's names for the types of arguments that are no tensors
_NO_TENSOR = ("", "Scalar", "ScalarList")

#: operator -> how many of its arguments are bias and factors; numbers and the output tensor follow
_FACTORS = {
    **{"mm": 2, "bmm": 2, "_int_mm": 2, "_scaled_mm": 2, "_grouped_mm": 2, "_scaled_grouped_mm": 2, "mv": 2},
    **{"addmm": 3, "baddbmm": 3, "_addmm_activation": 3, "addmv": 3},
}


def operands_of(name: str, values: Values, kinds: Sequence[str]) -> list[tuple[Shape, str]]:
    """Shape and type of the tensors that take part in a product."""
    if "_rnn" in name:  # its input, and a weight in the type that cuDNN needs for both
        return [(values[0], kinds[0])] * 2
    end = _FACTORS.get(name.rpartition("::")[2], len(values))
    tensors = zip(values[:end], kinds, strict=False)
    return [(shape, kind) for shape, kind in tensors if kind not in _NO_TENSOR]


def _product(values: Values) -> int:
    """FLOPs of (m, k) by (k, n), or of a batch of these, given as the last two tensors."""
    a, b = values[-2:]
    if len(a) < 2 or len(a) != len(b) or a[-1] != b[-2]:
        raise ValueError("no product")
    return 2 * math.prod(a) * int(b[-1])


def _matrix_at(place: int) -> Callable[[Values], int]:
    """FLOPs of a matrix by a vector."""
    return lambda values: 2 * math.prod(values[place])


def _grouped(values: Values) -> int:
    """FLOPs of grouped products that share the rows, columns or terms of a matrix, as (m, k) by (groups, k, n)."""
    a, b = values[:2]
    return int(2 * math.prod(a) * b[-1] if len(a) <= len(b) else 2 * math.prod(b) * a[-2])


def _recurrent(values: Values) -> int:
    """FLOPs of a layer and direction in oneDNN: each step multiplies x by one weight, and the state by another."""
    x, of_input, of_state = values[:3]
    return int(2 * math.prod(x[:-1]) * (math.prod(of_input) + math.prod(of_state)))


def _all_recurrent(mode: int) -> Callable[[Values], int]:
    """FLOPs of all layers and directions in cuDNN, for each row of x; the network's arguments begin at ``mode``."""

    def flops(values: Values) -> int:
        kind, hidden, projected, layers, *_, bidirectional = values[mode : mode + 8]
        directions, out, per_row = 1 + bool(bidirectional), projected or hidden, 0
        for layer in range(layers):
            width = out * directions if layer else values[0][-1]
            per_row += directions * hidden * (_GATES[kind] * (width + out) + projected)
        return int(2 * math.prod(values[0][:-1]) * per_row)

    return flops


def _twice(forward: Callable[[Values], int]) -> Callable[[Values], int]:
    """FLOPs of a backward pass to inputs and weights."""
    return lambda values: 2 * forward(values)


#: products per step of cuDNN's networks: with ReLU, with tanh, LSTM, GRU
_GATES = (1, 1, 4, 3)


def _first(count: int) -> Callable[[Values], int]:
    return lambda values: _product(values[:count])


def _convolved(x: Shape, weight: Shape, stride: Shape, padding: Shape, dilation: Shape) -> list[int]:
    """The shape of a convolution's result; the formula is that of ``torch.nn.Conv2d``."""
    sizes = zip(x[2:], weight[2:], stride, padding, dilation, strict=True)
    return [x[0], weight[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)]


def _convolution(values: Values) -> int:
    """FLOPs of ``aten::convolution``: x, weight, bias, stride, padding, dilation, transposed …"""
    x, weight, _, stride, padding, dilation, transposed = values[:7]
    out = x if transposed else _convolved(x, weight, stride, padding, dilation)
    return int(conv_flop_count(list(x), list(weight), list(out), bool(transposed)))


def _convolution_backward(values: Values) -> int:
    """As many FLOPs as the forward pass for each of the wanted gradients, of x and of the weight."""
    slope, x, weight = values[:3]
    transposed, mask = values[7], values[10]
    return _backward(slope, x, weight, bool(transposed), mask)


def _backward(slope: Shape, x: Shape, weight: Shape, transposed: bool, mask: Sequence[bool]) -> int:
    return int(conv_flop_count(list(x), list(weight), list(slope), transposed)) * sum(map(bool, mask[:2]))


def _emulated_backward(values: Values) -> int:
    """FLOPs of ``halfstep::convolution_backward``: it has no sizes of a bias, and the mask is the last but one."""
    slope, x, weight = values[:3]
    return _backward(slope, x, weight, bool(values[6]), values[-2])


def _attention(values: Values) -> int:
    return int(sdpa_flop_count(*values[:3]))


def _attention_backward(values: Values) -> int:
    return int(sdpa_backward_flop_count(*values[:4]))


def _registered(formula: Callable[..., int]) -> Callable[[Values], int]:
    return lambda values: formula(*values)


#: kernels of single backends, which run inside ``aten::convolution``
_INNER = ("_convolution", "cudnn_convolution", "_slow_conv2d_forward", "convolution_overrideable")

#: operator -> a function that gives a product's FLOPs from shapes and numbers
FORMULAS: dict[str, Callable[[Values], int]] = {
    **{
        str(packet).replace(".", "::"): _registered(formula)
        for packet, formula in flop_registry.items()
        if str(packet).startswith("aten.") and str(packet)[5:] not in _INNER
    },
    **{f"aten::{name}": _first(count) for name, count in _FACTORS.items()},
    "aten::mv": _matrix_at(0),
    "aten::addmv": _matrix_at(1),
    **dict.fromkeys(("aten::_grouped_mm", "aten::_scaled_grouped_mm"), _grouped),
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::mkldnn_rnn_layer_backward": _twice(_recurrent),
    "aten::_cudnn_rnn": _all_recurrent(6),
    "aten::_cudnn_rnn_backward": _twice(_all_recurrent(10)),
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}

#: the same for emulated products
EMULATED: dict[str, Callable[[Values], int]] = {
    "halfstep::product": _first(3),
    "halfstep::convolution": _convolution,
    "halfstep::convolution_backward": _emulated_backward,
}

#: matrix units take 16-bit operands in tiles whose sides are multiples of 8; other sizes are padded or run elsewhere
TILE = 8


def odd_sizes(operation: str, operands: Sequence[Sequence[int]]) -> bool:
    """Whether a side of the product is no multiple of 8.

    Args:
        operation: its name, e.g. ``addmm``.
        operands: the shapes of its tensors, in order; for ``addmm`` and similar operations the bias comes first.
    """
    return any(side % TILE for side in _sides(operation, operands))


def _sides(operation: str, operands: Sequence[Sequence[int]]) -> Sequence[int]:
    """The sizes that the unit sees: m, k and n of a product, channels of a convolution, the width of a head."""
    if "attention" in operation:
        return operands["backward" in operation][-1:]
    if "convolution" in operation:
        weight = operands[2 if "backward" in operation else 1]
        return weight[:2]
    *_, a, b = operands
    return (*a[-2:], b[-1]) if len(a) > 1 and len(b) > 1 else ()
