// 16-bit products computed in fp32 (operations.py): a kernel put before PyTorch's own for the CPU, which gives them fp32
// copies of the operands and rounds the results. What it does is what python_kernel.py does, in 1 to 2 us a call.
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/native/ConvUtils.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using at::MemoryFormat;
using at::ScalarType;
using at::Tensor;
using c10::DispatchKeySet;
using c10::IValue;
using c10::OperatorHandle;
using torch::jit::Stack;

enum { NEW, OUT, SELF }; // operations.py's WRITES

extern "C" struct hs_operation { // as operations.py has it
    const char *name, *overload, *base, *base_overload;
    int32_t is_product, tensors, rounded, writes;
    int32_t variant, shorter_than; // the argument that tells the variant, or -1; 0: it is a flag
    int32_t stride;                // of a convolution: the argument, after which the rest of its geometry comes; or -1
    uint32_t low, low_of_variant;  // the dtypes that are computed in fp32: 1 for bf16, 2 for fp16
};

namespace {

// What tests listen with: it is given the name of every operation that is computed in fp32.
std::atomic<void (*)(const char *)> listener{nullptr};

// scratch.py
constexpr int64_t SMALLEST = 1 << 14, LARGEST = 1 << 23;
thread_local std::array<Tensor, 5> scratch_operands;
thread_local Tensor scratch_result;

const char *const CAST = "halfstep: cast"; // timeline.py: in a profile it is no part of the product

// casts.c, if it could be compiled
struct Cast {
    const void *from;
    void *to;
    int64_t n, row, step;
};
int32_t (*cast)(const Cast *casts, int32_t count, int32_t kind, int32_t threads) = nullptr;

enum { WIDEN_BF16, WIDEN_FP16, ROUND_BF16, ROUND_FP16 };

// Casts between one 16-bit dtype and fp32, made all at once at the end.
class Casts {
  public:
    explicit Casts(int32_t kind) : kind_(kind) {}

    // `to` has the strides of `from`, which is dense.
    void add(const Tensor &from, const Tensor &to) { add(from, to, from.numel(), from.numel()); }

    // `to` is dense; `from`, in the same order, has rows of so many numbers, `step` apart.
    void add(const Tensor &from, const Tensor &to, int64_t row, int64_t step) {
        if (count_ == ROOM) run();
        froms_[count_] = from, tos_[count_] = to;
        casts_[count_++] = {from.const_data_ptr(), to.mutable_data_ptr(), from.numel(), row, step};
    }

    void run() {
        if (count_ == 0) return;
        RECORD_FUNCTION(CAST, c10::ArrayRef<const IValue>{});
        const int32_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
        const bool made = cast != nullptr && cast(casts_.data(), count_, kind_, threads) == 0;
        for (int32_t i = 0; i < count_; i++) {
            if (!made) tos_[i].copy_(froms_[i]);
            froms_[i].reset(), tos_[i].reset();
        }
        count_ = 0;
    }

  private:
    static constexpr int32_t ROOM = 8;
    int32_t kind_, count_ = 0;
    std::array<Cast, ROOM> casts_;
    std::array<Tensor, ROOM> froms_, tos_;
};

Tensor scratch_of(int64_t n) {
    const c10::InferenceMode off(false); // what is made inside could not be written to outside
    return Tensor(at::detail::empty_cpu({n}, at::kFloat));
}

Tensor converted(const Tensor &x, ScalarType dtype, Casts &casts, MemoryFormat layout = MemoryFormat::Preserve) {
    if (layout != MemoryFormat::Preserve || !x.is_non_overlapping_and_dense()) {
        RECORD_FUNCTION(CAST, c10::ArrayRef<const IValue>{});
        return x.to(x.options().dtype(dtype), /*non_blocking=*/false, /*copy=*/false, layout);
    }
    const Tensor to(at::detail::empty_strided_cpu(x.sizes(), x.strides(), dtype));
    casts.add(x, to);
    return to;
}

// How a part of a dense tensor lies there: in rows of so many numbers, `step` apart, and the strides of the dense copy that
// PyTorch makes. The q, k and v that a model cuts out of one product's result do.
struct Rows {
    int64_t row, step;
    std::vector<int64_t> dense;
};

// Rows that are shorter are PyTorch's to cast.
constexpr int64_t SHORTEST_ROW = 32;

std::optional<Rows> rows_of(const Tensor &x) {
    const auto sizes = x.sizes(), strides = x.strides();
    at::DimVector inner_first(x.dim());
    std::iota(inner_first.begin(), inner_first.end(), 0);
    std::sort(inner_first.begin(), inner_first.end(), [&](int64_t a, int64_t b) { return strides[a] < strides[b]; });
    Rows rows{0, 0, at::infer_dense_strides(sizes, strides)};
    int64_t n = 1, next = 1;
    for (const int64_t d : inner_first) {
        if (sizes[d] == 1) continue;
        if (rows.dense[d] != n) return std::nullopt; // in another order
        if (strides[d] != next) {
            if (rows.step != 0 || strides[d] < next) return std::nullopt; // a second gap, or numbers used twice
            rows.row = n, rows.step = strides[d];
        }
        n *= sizes[d], next = strides[d] * sizes[d];
    }
    return n > 0 && rows.row >= SHORTEST_ROW ? std::optional(rows) : std::nullopt;
}

// x in fp32, in x's order; it may hold only until the next call for this place in this thread.
Tensor widened(const Tensor &x, size_t place, Casts &casts) {
    const int64_t n = x.numel();
    const bool dense = x.is_non_overlapping_and_dense();
    const auto rows = dense ? std::optional(Rows{n, n, {}}) : rows_of(x);
    if (!rows) return converted(x, at::kFloat, casts);
    const auto strides = dense ? x.strides() : at::IntArrayRef(rows->dense);
    Tensor to;
    if (place >= scratch_operands.size() || n < SMALLEST || n > LARGEST) {
        to = Tensor(at::detail::empty_strided_cpu(x.sizes(), strides, at::kFloat));
    } else {
        Tensor &memory = scratch_operands[place];
        if (!memory.defined() || memory.numel() < n) memory = scratch_of(n);
        to = memory.as_strided(x.sizes(), strides);
    }
    casts.add(x, to, rows->row, rows->step);
    return to;
}

Casts widening(ScalarType low) { return Casts(low == at::kHalf ? WIDEN_FP16 : WIDEN_BF16); }
Casts rounding(ScalarType low) { return Casts(low == at::kHalf ? ROUND_FP16 : ROUND_BF16); }

bool is_given(const IValue &value) { return value.isTensor() && value.toTensor().defined(); }

bool is_of(const IValue &value, ScalarType dtype) {
    return is_given(value) && value.toTensor().scalar_type() == dtype;
}

class Kernel final : public c10::OperatorKernel {
  public:
    Kernel(const hs_operation &operation, const OperatorHandle &op, const OperatorHandle &base)
        : operation_(operation), name_(op.operator_name().name), arguments_(op.schema().arguments().size()), base_(base),
          own_(op.getComputedKernelForDispatchKey(c10::DispatchKey::CPU)),
          own_base_(base.getComputedKernelForDispatchKey(c10::DispatchKey::CPU)) {
        if (*operation.overload) name_ += std::string(".") + operation.overload;
    }

    void operator()(const OperatorHandle &op, DispatchKeySet keys, Stack *stack) const {
        IValue *args = stack->data() + stack->size() - arguments_;
        if (!applies(args)) return own_.callBoxed(op, keys, stack);
        if (const auto listen = listener.load(std::memory_order_relaxed)) listen(name_.c_str());
        if (operation_.is_product)
            product(args, keys, stack);
        else
            several(args, keys, stack);
    }

  private:
    // Whether the operands are 16-bit tensors of one dtype that is asked for; PyTorch refuses unlike ones in its own words.
    bool applies(const IValue *args) const {
        const ScalarType dtype = args[0].toTensor().scalar_type();
        const uint32_t bit = dtype == at::kBFloat16 ? 1 : dtype == at::kHalf ? 2 : 0;
        if (!(bit & (is_variant(args) ? operation_.low_of_variant : operation_.low))) return false;
        for (int i = 1; i < operation_.tensors; i++)
            if (is_given(args[i]) && !is_of(args[i], dtype)) return false;
        return operation_.writes != OUT || is_of(args[arguments_ - 1], dtype);
    }

    bool is_variant(const IValue *args) const {
        if (operation_.variant < 0) return false;
        const IValue &told = args[operation_.variant];
        return operation_.shorter_than == 0 ? told.toBool() : told.toTensor().size(-2) < operation_.shorter_than;
    }

    // By way of the overload with out=, whose result lies in memory that is used again.
    void product(IValue *args, DispatchKeySet keys, Stack *stack) const {
        const ScalarType low = args[0].toTensor().scalar_type();
        Tensor out;
        if (operation_.writes != NEW) out = args[operation_.writes == OUT ? arguments_ - 1 : 0].toTensor();
        Casts wide = widening(low), rounded = rounding(low);
        for (int i = 0; i < operation_.tensors; i++) args[i] = widened(args[i].toTensor(), i, wide);
        wide.run();
        if (operation_.writes == OUT) stack->pop_back();
        if (!scratch_result.defined()) scratch_result = scratch_of(0);
        stack->emplace_back(scratch_result.resize_({0}));
        own_base_.callBoxed(base_, keys, stack);
        if (!out.defined()) {
            out = converted(scratch_result, low, rounded);
        } else {
            if (out.sizes() != scratch_result.sizes()) out.resize_(scratch_result.sizes());
            round_into(out, rounded);
        }
        rounded.run();
        if (scratch_result.numel() > LARGEST) scratch_result.reset();
        stack->back() = std::move(out);
    }

    static void round_into(const Tensor &out, Casts &rounded) {
        if (out.is_non_overlapping_and_dense() && out.strides() == scratch_result.strides()) {
            rounded.add(scratch_result, out);
        } else {
            RECORD_FUNCTION(CAST, c10::ArrayRef<const IValue>{});
            out.copy_(scratch_result); // rounds in the pass that copies
        }
    }

    // Of several results those that fp32's kernel computed are rounded: a gradient not asked for is undefined, a workspace
    // keeps its bytes.
    void several(IValue *args, DispatchKeySet keys, Stack *stack) const {
        const ScalarType low = args[0].toTensor().scalar_type();
        const MemoryFormat layout = layout_of(args);
        const size_t below = stack->size() - arguments_;
        Casts wide = widening(low), rounded = rounding(low);
        for (size_t i = 0; i < arguments_; i++)
            if (is_of(args[i], low)) args[i] = widened(args[i].toTensor(), i, wide);
        wide.run();
        own_base_.callBoxed(base_, keys, stack);
        for (int i = 0; i < operation_.rounded; i++) {
            IValue &result = (*stack)[below + i];
            if (!is_of(result, at::kFloat)) continue;
            const Tensor exact = result.toTensor();
            result = converted(exact, low, rounded, exact.dim() == 5 ? layout : MemoryFormat::Preserve);
        }
        rounded.run();
    }

    // The strides that PyTorch's own kernel would give: compiled code has been told to expect them. They differ from
    // fp32's only in convolutions of volumes with channels last.
    MemoryFormat layout_of(const IValue *args) const {
        if (operation_.stride < 0 || args[1].toTensor().dim() != 5) return MemoryFormat::Preserve;
        const IValue *geometry = args + operation_.stride;
        const bool backward = operation_.stride == 4; // grad, input, weight, bias_sizes, stride, ...
        const Tensor &x = args[backward].toTensor(), &weight = args[1 + backward].toTensor();
        const auto sizes = backward && args[3].isList() ? args[3].toSymIntVector() : std::vector<c10::SymInt>();
        const auto stride = geometry[0].toSymIntVector(), padding = geometry[1].toSymIntVector(),
                   dilation = geometry[2].toSymIntVector(), output_padding = geometry[4].toSymIntVector();
        const auto backend = at::native::select_conv_backend(
            x, weight, backward ? std::nullopt : args[2].toOptional<Tensor>(), stride, padding, dilation,
            geometry[3].toBool(), output_padding, geometry[5].toSymInt(),
            sizes.empty() ? at::OptionalSymIntArrayRef() : at::OptionalSymIntArrayRef(sizes));
        return at::native::_determine_backend_memory_format(x, weight, backend);
    }

    hs_operation operation_; // its names hold only during hs_put
    std::string name_;
    size_t arguments_;
    OperatorHandle base_;
    c10::SafeKernelFunction own_, own_base_;
};

class Silence final : public c10::WarningHandler {
    void process(const c10::Warning &) override {}
};

using Registrations = std::vector<c10::RegistrationHandleRAII>;
std::string error;

} // namespace

// Puts the kernel before PyTorch's own of n operations. Returns what hs_remove takes, or null and hs_error tells why.
extern "C" void *hs_put(const hs_operation *operations, int32_t n) {
    try {
        auto &dispatcher = c10::Dispatcher::singleton();
        std::vector<std::pair<c10::OperatorName, std::unique_ptr<Kernel>>> kernels;
        for (const hs_operation *o = operations; o < operations + n; o++) {
            const auto op = dispatcher.findSchemaOrThrow(o->name, o->overload);
            const auto base = dispatcher.findSchemaOrThrow(o->base, o->base_overload);
            kernels.emplace_back(op.operator_name(), std::make_unique<Kernel>(*o, op, base));
        }
        Silence silence; // PyTorch warns of kernels put before others, which is what is done here
        const c10::WarningUtils::WarningHandlerGuard guard(&silence);
        auto registrations = std::make_unique<Registrations>();
        for (auto &[name, kernel] : kernels)
            registrations->push_back(dispatcher.registerImpl(
                name, c10::DispatchKey::CPU, c10::KernelFunction::makeFromBoxedFunctor(std::move(kernel)), std::nullopt,
                nullptr, "products in fp32 units"));
        return registrations.release();
    } catch (const c10::Error &e) {
        error = e.what_without_backtrace();
        return nullptr;
    } catch (const std::exception &e) {
        error = e.what();
        return nullptr;
    }
}

extern "C" void hs_cast_with(int32_t (*function)(const Cast *, int32_t, int32_t, int32_t)) { cast = function; }

extern "C" void hs_remove(void *registrations) { delete static_cast<Registrations *>(registrations); }

extern "C" const char *hs_error() { return error.c_str(); }

extern "C" void hs_listen(void (*function)(const char *)) { listener = function; }
