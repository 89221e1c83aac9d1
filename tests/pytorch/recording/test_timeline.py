"""Shares of a step's time against timelines worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep.pytorch.recording import timeline
from halfstep.pytorch.recording.timeline import Event, device_time, host_time, kinds, launched, shares

#: name, start, end in ns
HOST = [
    Event("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 0, 100),
    Event("aten::stack", 10, 90),
    Event("aten::linear", 120, 220),
    Event("aten::to", 125, 160),
    Event("aten::_to_copy", 130, 160),
    Event("aten::addmm", 170, 210, correlation=7),
    Event("aten::layer_norm", 220, 300),
    Event("AddmmBackward0", 310, 400),
    Event("aten::mm", 320, 390),
    Event("Optimizer.step#AdamW.step", 400, 500),
    Event("aten::_to_copy", 410, 420),
]


def test_every_instant_goes_to_the_innermost_operation() -> None:
    spent = host_time(kinds(HOST), 0, 600)
    assert spent == {
        "data": 100,
        "host": 20 + (10 + 20) + 100,  # before linear, the node of the graph, after the optimizer
        "products": 100 - 30 + 70,
        "casts": 30,
        "other": 80,
        "optimizer": 100,
    }


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn", "products"),
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_TNT", "products"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32", "products"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_f32_f32_nhwckrsc_nhwc", "products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_256x64_16x4_nt_align4>(...)", "products"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>(...)", "products"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(...)", "products"),
        ("triton_tem_fused_mm_3", "products"),
        ("void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4>(...)", "products"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>(...)",
            "other",
        ),
        ("triton_poi_fused_add_relu_1", "other"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>(...)", "other"),
        ("Memcpy HtoD (Pinned -> Device)", "data"),
    ],
)
def test_what_a_cuda_graph_replays_is_told_by_the_kernels_name(kernel: str, kind: str) -> None:
    """No operation launched it: the replay is one call of the runtime."""
    ran = launched(
        [Event(kernel, 0, 10, correlation=3)], kinds([Event("cudaGraphLaunch", 0, 2, correlation=3)])
    )
    assert [found for _, found in ran] == [kind]


def test_an_optimizers_products_are_the_optimizers() -> None:
    events = [Event("Optimizer.step#Muon.step", 0, 9), Event("aten::mm", 1, 8, correlation=3)]
    assert [
        kind for _, kind in launched([Event("sm90_xmma_gemm", 20, 30, correlation=3)], kinds(events))
    ] == ["optimizer"]


def test_a_closures_work_is_not_the_optimizers() -> None:
    """Lightning and LBFGS run the forward and the backward pass inside the optimizer's step."""
    events = [
        Event("Optimizer.step#Adam.step", 0, 100),
        Event(timeline.CLOSURE, 10, 70),
        Event("aten::mm", 20, 50),
        Event("aten::mul_", 80, 90),
    ]
    spent = {kind: time for kind, time in host_time(kinds(events), 0, 100).items() if time}
    assert spent == {"optimizer": 10 + 30, "host": 10 + 20, "products": 30}


def test_compiled_kernels_are_not_what_is_fused_in_their_names() -> None:
    """As inductor names them; its templates are products."""
    events = [
        Event("CompiledFunctionBackward", 0, 100),
        Event("## Call CompiledFxGraph f3ab ##", 10, 90),
        Event("triton_poi_fused_convolution_relu_0", 20, 30),
        Event("triton_tem_fused_mm_3", 30, 50),
        Event("graph_0_cpp_fused_convolution_backward_1", 50, 60),
        Event("aten::convolution_backward", 60, 80),
    ]
    assert host_time(kinds(events), 0, 100) == {"host": 20, "other": 10 + 10 + 10 + 10, "products": 20 + 20}


def test_the_window_cuts_what_reaches_beyond_it() -> None:
    assert host_time(kinds(HOST), 50, 180) == {"data": 50, "host": 20, "products": 30, "casts": 30}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["aten::mm", "aten::_to_copy", "aten::add", "x"]), *[st.integers(0, 99)] * 2
        )
    )
)
def test_shares_sum_to_the_step_whatever_the_events(raw: list[tuple[str, int, int]]) -> None:
    events = [Event(name, min(a, b), max(a, b)) for name, a, b in raw]
    for spent in (host_time(kinds(events), 10, 90), device_time(kinds(events), [], 10, 90)):
        assert sum(spent.values()) == 80
        assert sum(shares(spent).values()) == pytest.approx(1, abs=1e-12)


def test_a_gpu_is_given_to_what_runs_on_it_and_idles_for_the_host() -> None:
    device = [
        Event("gemm", 200, 300, correlation=7),
        Event("Memcpy HtoD (Pageable -> Device)", 150, 170, correlation=3),
        Event("elementwise", 280, 350, correlation=99),  # overlaps the product in a second stream
    ]
    ran = launched(device, kinds(HOST))
    assert [kind for _, kind in ran] == ["products", "data", "other"]
    assert device_time(ran, kinds(HOST), 0, 400) == {
        "data": 100 + 20,  # the loader while the device idles, and the copy
        "host": 50 + 30 + 50,
        "products": 100,
        "other": 50,
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mm", "products"),
        ("aten::baddbmm", "products"),
        ("aten::_scaled_mm", "products"),
        ("aten::mkldnn_convolution", "products"),
        ("aten::convolution_backward", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "products"),
        ("aten::_to_copy", "casts"),
        ("halfstep: cast", "casts"),
        ("aten::addcmul_", ""),
        ("aten::comm", ""),
        ("Optimizer.zero_grad#SGD.zero_grad", "optimizer"),
    ],
)
def test_what_an_operation_is(name: str, kind: str) -> None:
    assert timeline.kind_of(Event(name, 0, 1)) == kind
