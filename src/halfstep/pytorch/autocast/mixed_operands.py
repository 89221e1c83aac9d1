"""Operations that plain fp32 code uses, and that refuse a 16-bit operand: in a region their operands are promoted.

``canvas[index] = layer(x)`` and ``total.index_add_(0, index, layer(x))`` work in fp32. In a region the layer's result
is 16-bit, the script's own tensor is fp32, and PyTorch raises. On a CPU its autocast promotes only the operands of
``cat`` and ``stack`` (on CUDA those of a few more). Here kernels at autocast's own dispatch key promote those of the
other operations, in eager and in compiled code, in the forward and in the backward pass; outside of regions they cost
nothing.

The tables come from running PyTorch's own list of operations (``torch.testing``'s ``op_db``) in fp32, and then with
each single operand in bf16 under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

from halfstep.passed_on import Keywords
from halfstep.pytorch.dtypes import SIXTEEN_BIT
from halfstep.pytorch.products.dispatcher import Overrides, exists, own_kernel

#: all tensors are cast to the widest dtype among them; where the operation writes in place, to the first one's
PROMOTED = (
    *("index_put", "index_put_", "_unsafe_masked_index_put_accumulate", "put", "put_"),
    *("index_add", "index_add_", "index_copy", "index_copy_", "index_reduce", "index_reduce_"),
    *("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"),
    *("masked_scatter", "masked_scatter_", "lerp", "lerp_", "heaviside", "heaviside_"),
    *(
        "addmm_",
        "addmv",
        "addmv_",
        "addbmm_",
        "baddbmm_",
        "mv",
        "dot",
        "vdot",
        "inner",
        "tensordot",
        "bilinear",
    ),
    *("linalg_multi_dot", "cross", "linalg_cross", "_weight_norm", "allclose", "isclose"),
    *("meshgrid", "cartesian_prod", "_chunk_cat"),
)

#: operations without a 16-bit kernel, or with one that factorizes or samples otherwise than fp32: 16-bit operands are
#: cast to fp32
IN_FP32 = (
    *("_standard_gamma", "_sample_dirichlet", "_dirichlet_grad", "binomial", "poisson"),
    *(
        "pdist",
        "_pdist_forward",
        "histogram",
        "histogramdd",
        "histc",
        "embedding_bag",
        "rrelu",
        "rrelu_with_noise",
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
        "complex",
    ),
    *(
        "fused_moving_avg_obs_fake_quant",
        "fake_quantize_per_tensor_affine",
        "fake_quantize_per_channel_affine",
        "_fake_quantize_learnable_per_tensor_affine",
        "_fake_quantize_learnable_per_channel_affine",
    ),
    *(
        "logdet",
        "slogdet",
        "det",
        "linalg_det",
        "linalg_slogdet",
        "linalg_vander",
        "linalg_pinv",
        "linalg_matrix_norm",
    ),
    *("linalg_lu", "linalg_lu_factor", "linalg_lu_factor_ex", "linalg_lu_solve", "linalg_ldl_factor"),
    *(
        "linalg_ldl_factor_ex",
        "linalg_ldl_solve",
        "linalg_solve",
        "linalg_solve_ex",
        "linalg_solve_triangular",
    ),
    *("linalg_cholesky", "linalg_cholesky_ex", "cholesky", "linalg_eigh", "linalg_eigvalsh", "linalg_svd"),
    *(
        "linalg_qr",
        "linalg_inv",
        "linalg_inv_ex",
        "inverse",
        "linalg_lstsq",
        "linalg_matrix_exp",
        "triangular_solve",
    ),
    *(
        "fft_fft",
        "fft_ifft",
        "fft_rfft",
        "fft_irfft",
        "fft_hfft",
        "fft_ihfft",
        "fft_fft2",
        "fft_ifft2",
        "fft_rfft2",
    ),
    *(
        "fft_irfft2",
        "fft_hfft2",
        "fft_ihfft2",
        "fft_fftn",
        "fft_ifftn",
        "fft_rfftn",
        "fft_irfftn",
        "fft_hfftn",
    ),
    *("fft_ihfftn", "stft", "istft", "special_zeta", "special_ndtri", "special_log_ndtr", "special_erfcx"),
    *("special_airy_ai", "special_bessel_j0", "special_bessel_j1", "special_bessel_y0", "special_bessel_y1"),
    *("special_modified_bessel_i0", "special_modified_bessel_i1", "special_modified_bessel_k0"),
    *("special_modified_bessel_k1", "special_scaled_modified_bessel_k0", "special_scaled_modified_bessel_k1"),
    *("special_spherical_bessel_j0", "special_chebyshev_polynomial_t", "special_chebyshev_polynomial_u"),
    *("special_hermite_polynomial_h", "special_hermite_polynomial_he", "special_laguerre_polynomial_l"),
    *("special_chebyshev_polynomial_v", "special_chebyshev_polynomial_w", "special_legendre_polynomial_p"),
    *(f"special_shifted_chebyshev_polynomial_{kind}" for kind in "tuvw"),
    *("special_i1", "special_i1e", "_sparse_softmax", "_sparse_log_softmax"),
    *("_sparse_mm", "_sparse_addmm", "_sparse_sparse_matmul", "sparse_sampled_addmm"),
    *("hspmm", "smm", "sspaddmm"),
)

#: products of a sparse matrix, which have no 16-bit kernel: computed in fp32, and rounded to the operands' dtype
ROUNDED = {"SparseCPU": ("bmm",), "SparseCsrCPU": ("mm", "addmm", "addmm.out", "addmv.out")}

#: in every autocast list, cast to the widest dtype among the operands
JOINING = ("cat", "stack", "index_copy")

KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA", "xpu": "AutocastXPU", "mps": "AutocastMPS"}

Cast = Callable[[Any], Any]


def promote(devices: Iterable[str]) -> Overrides:
    """Put the kernels at autocast's key of ``devices``; where PyTorch has a kernel there, it stays.

    Returns:
        What takes them away again.
    """
    overrides = Overrides()
    for key in (KEYS[device] for device in devices if device in KEYS):
        for names, choose in ((PROMOTED, _common), (IN_FP32, _fp32)):
            for operation in _operations(names):
                name = operation._schema.name.removeprefix("aten::")
                variant = operation._overloadname
                full = name if variant == "default" else f"{name}.{variant}"
                if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{full}", key):
                    kernel = _of_bags if name == "embedding_bag" else _kernel
                    overrides.put(full, key, kernel(operation, key, choose))
    for key, rounded in ROUNDED.items():
        for name in rounded:
            overrides.put(name, key, _rounded(own_kernel(name, key)))
    return overrides


def let_formats_meet(devices: Iterable[str], dtype: torch.dtype) -> Overrides:
    """Cast tensors of the other 16-bit dtype to float32 where an operation joins them: PyTorch's autocast would raise.

    Only for programs that hold 16-bit numbers: kernels in Python take time in every call.
    """
    overrides = Overrides("16-bit formats meet")
    for key in (KEYS[device] for device in devices if device in KEYS):
        for name in JOINING:
            if exists(name) and torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key):
                overrides.put(name, key, _joining(own_kernel(name, key), dtype))
    return overrides


def _joining(own: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    (other,) = (narrow for narrow in SIXTEEN_BIT if narrow is not dtype)

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        return own(keyset, *_each(args, lambda x: x.float() if x.dtype is other else x), **kwargs)

    return kernel


def _operations(names: Iterable[str]) -> Iterator[Any]:
    """The overloads of each name that take tensors and write into no argument but the first."""
    for name in names:
        packet = getattr(torch.ops.aten, name, None)
        for variant in packet.overloads() if packet is not None else ():
            if not variant.endswith(("out", "hacked_twin")):
                yield getattr(packet, variant)


def _kernel(operation: Any, key: str, choose: Callable[[Any, list[Tensor]], Cast]) -> Callable[..., Any]:
    keys = DispatchKeySet(getattr(DispatchKey, key))

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            args, kwargs = _cast(choose, operation, args, kwargs)
            return operation(*args, **kwargs)

    return kernel


def _of_bags(operation: Any, key: str, choose: Callable[[Any, list[Tensor]], Cast]) -> Callable[..., Any]:
    """Weights that are to have a sparse gradient stay 16-bit: a cast would make their gradient dense."""
    dense, sparse = _kernel(operation, key, choose), _kernel(operation, key, _common)
    place = [argument.name for argument in operation._schema.arguments].index("sparse")

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        is_sparse = args[place] if len(args) > place else kwargs.get("sparse", False)
        return (sparse if is_sparse else dense)(keyset, *args, **kwargs)

    return kernel


def _rounded(own: Callable[..., Any]) -> Callable[..., Any]:
    """``own`` on 16-bit operands, computed in fp32 and rounded; ``out`` is written in the operands' dtype."""

    def kernel(keyset: Any, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Any:
        low = next((x.dtype for x in _tensors(args) if x.dtype in SIXTEEN_BIT), None)
        if low is not None:
            args = _each(args, lambda x: x.float() if x.dtype is low else x)
        if out is None:
            result = own(keyset, *args, **kwargs)
            return result if low is None else result.to(low)
        if low is None:
            return own(keyset, *args, out=out, **kwargs)
        return out.copy_(own(keyset, *args, out=torch.empty_like(out, dtype=torch.float32), **kwargs))

    return kernel


def of_one_dtype(operation: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], Keywords]:
    """Arguments of ``operation`` in one dtype, if floating ones differ and one is 16-bit; else unchanged."""
    return _cast(_common, operation, args, kwargs)


def _cast(
    choose: Callable[[Any, list[Tensor]], Cast], operation: Any, args: Any, kwargs: Any
) -> tuple[tuple[Any, ...], Keywords]:
    values = tuple(kwargs.values())
    cast = choose(operation, list(_tensors((args, values))))
    return _each(args, cast), dict(zip(kwargs, _each(values, cast), strict=True))


def _common(operation: Any, tensors: list[Tensor]) -> Cast:
    """Cast to one dtype: that of the tensor that is written, or else the widest."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if len(dtypes) < 2 or not dtypes & set(SIXTEEN_BIT):
        return _as_it_is
    if operation._schema.is_mutable:
        dtype = tensors[0].dtype
        if not dtype.is_floating_point:
            return _as_it_is
    else:
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    return lambda value: value.to(dtype) if value.is_floating_point() else value


def _fp32(operation: Any, tensors: list[Tensor]) -> Cast:
    """Cast 16-bit operands to fp32."""
    if not any(tensor.dtype in SIXTEEN_BIT for tensor in tensors):
        return _as_it_is
    return lambda value: value.float() if value.dtype in SIXTEEN_BIT else value


def _as_it_is(value: Any) -> Any:
    return value


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _each(values: Any, cast: Cast) -> Any:
    if cast is _as_it_is:
        return values
    return type(values)(
        cast(value)
        if isinstance(value, Tensor)
        else _each(value, cast)
        if isinstance(value, tuple | list)
        else value
        for value in values
    )
