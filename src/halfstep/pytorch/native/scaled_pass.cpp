// What a scaled backward pass does to many leaves, without making a Python object of each: which they are, the gradients
// that they have, and which of those have been tested and not been written to since.
//
// PyTorch's engine walks the graph before it executes it, to count what each node waits for, and keeps the set of all
// nodes. To go through that set takes a tenth of what walking the graph from Python does. Every function is called with
// Python's lock held, and a hook takes it. Python's own headers may not be installed: what is used of them is declared.
#include <ATen/Parallel.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

struct _object;
struct _ts;
extern "C" {
int PyList_Append(_object *, _object *);
void Py_DecRef(_object *);
_ts *PyEval_SaveThread();
void PyEval_RestoreThread(_ts *);
int PyGILState_Ensure();
void PyGILState_Release(int);
}
_object *THPVariable_Wrap(const at::TensorBase &); // torch/csrc/autograd/python_variable.h

using at::Tensor;
using c10::TensorImpl;
using torch::autograd::AccumulateGrad;

// hs_unscale of gradient_kernels.c, and the last of its arguments
using Unscale = int (*)(void **tensors, int64_t n, uint8_t *served, double factor, int write, int refuse_float16,
                        int threads, const void *torch);

// A pass begins, and something is left to Python: what ScaledPass::reach returned; -1 also where it began before.
using Begun = void (*)(int reached);

namespace {

struct WithoutLock { // other threads of the program go on
    _ts *const state = PyEval_SaveThread();
    ~WithoutLock() { PyEval_RestoreThread(state); }
};

struct WithLock {
    const int state = PyGILState_Ensure();
    ~WithLock() { PyGILState_Release(state); }
};

// A tensor of PyTorch's own, on a CPU, and no part of a graph: other ones are for Python.
bool is_plain(const Tensor &gradient) {
    constexpr auto own =
        c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU, c10::DispatchKey::ADInplaceOrView}) |
        c10::autocast_dispatch_keyset;
    return (gradient.key_set().raw_repr() & ~own.raw_repr()) == 0 && !gradient.is_inference() && !gradient.requires_grad();
}

uint32_t version_of(const TensorImpl *tensor) { return tensor->version_counter().current_version(); }

// As Python has it in Tensor._cdata.
const Tensor &tensor_at(void *const &address) {
    static_assert(sizeof(Tensor) == sizeof(void *), "a tensor is a pointer to its TensorImpl");
    return reinterpret_cast<const Tensor &>(address);
}

class ScaledPass {
  public:
    ScaledPass(Unscale unscale, const void *torch, Begun begun) : unscale_(unscale), torch_(torch), begun_(begun) {}

    // The pass to come starts from `output`: at its first node its leaves are listed, and the gradients that they have are
    // brought to its unit, times `scale`. Returns whether there is such a node.
    bool expect(const Tensor &output, double scale, bool always_tell) {
        if (!output.grad_fn()) return false;
        scale_ = scale, always_tell_ = always_tell, begun_once_ = false;
        first_ = output.grad_fn();
        auto hook = std::make_unique<Hook>(*this);
        hook_ = hook.get();
        first_->add_pre_hook(std::move(hook));
        return true;
    }

    const std::vector<Tensor> &leaves() const { return leaves_; }

    void leave() { std::vector<Tensor>().swap(leaves_); } // the last of them to go may call Python

    void end() {
        leave();
        if (!first_) return;
        auto &hooks = first_->pre_hooks();
        hooks.erase(std::remove_if(hooks.begin(), hooks.end(), [this](const auto &hook) { return hook.get() == hook_; }),
                    hooks.end());
        first_ = nullptr;
    }

    // Of the leaves. Returns whether it was done; else it is left to Python.
    bool unscale(double factor) {
        std::vector<Tensor> gradients;
        if (!collect(gradients)) return false;
        const int bad = gradients.empty() ? 0 : multiply(gradients, factor);
        if (bad < 0) return false;
        remember(gradients, bad);
        return true;
    }

    // Whether n gradients, or those of n parameters, were found finite and are as they were then, and lie in none of m
    // memories.
    bool holds(void *const *tensors, int64_t n, bool parameters, void **memories, int64_t m) const {
        if (bad_ || tested_.empty()) return false;
        std::sort(memories, memories + m);
        for (void *const *tensor = tensors; tensor < tensors + n; tensor++) {
            const Tensor &gradient = parameters ? tensor_at(*tensor).grad() : tensor_at(*tensor);
            if (!gradient.defined()) continue;
            TensorImpl *const impl = gradient.unsafeGetTensorImpl();
            const auto found = tested_.find(impl);
            if (found == tested_.end() || found->second.version != version_of(impl)) return false;
            if (m && std::binary_search(memories, memories + m, impl->unsafe_storage().unsafeGetStorageImpl()))
                return false;
        }
        return true;
    }

    // Whether all of them are as they were: what clipping then does to them can be told from the norm.
    bool unchanged() const {
        if (bad_ || tested_.empty()) return false;
        for (const auto &[impl, state] : tested_)
            if (const auto alive = state.gradient.lock(); alive.defined() && state.version != version_of(impl)) return false;
        return true;
    }

    // They were written to since, and are finite.
    void written() {
        for (auto &[impl, state] : tested_)
            if (const auto alive = state.gradient.lock(); alive.defined()) state.version = version_of(impl);
    }

    void forget() {
        tested_.clear();
        bad_ = false;
    }

  private:
    struct Hook final : torch::autograd::FunctionPreHook {
        ScaledPass &pass;
        explicit Hook(ScaledPass &pass) : pass(pass) {}

        torch::autograd::variable_list operator()(const torch::autograd::variable_list &gradients) override {
            const WithLock lock;
            pass.begin();
            return gradients;
        }

        // A compiled backward pass asks before it begins, and calls no hook.
        void compiled_args(torch::dynamo::autograd::CompiledNodeArgs &) const override {
            const WithLock lock;
            pass.begun_(-1);
        }
    };

    void begin() {
        if (std::exchange(begun_once_, true)) return begun_(-1); // a pass inside this one comes by the same node
        const int reached = reach();
        if (reached != 0 || always_tell_) begun_(reached);
    }

    // Returns 0; 1 where the leaves are listed, and nothing was done to their gradients; -1 where the engine knows none.
    int reach() {
        const auto *nodes = torch::autograd::get_current_graph_task_nodes_in_graph();
        if (nodes == nullptr) return -1;
        leaves_.clear();
        for (torch::autograd::Node *node : *nodes)
            if (typeid(*node) == typeid(AccumulateGrad)) leaves_.push_back(static_cast<AccumulateGrad *>(node)->variable);
        // In the order that they were made in, more or less: what is done to one after the other lies side by side.
        std::sort(leaves_.begin(), leaves_.end(), [](const Tensor &a, const Tensor &b) {
            return std::less<>()(a.unsafeGetTensorImpl(), b.unsafeGetTensorImpl());
        });
        std::vector<Tensor> gradients;
        if (!collect(gradients)) return 1;
        return gradients.empty() || multiply(gradients, scale_) >= 0 ? 0 : 1;
    }

    using Weak = c10::weak_intrusive_ptr<TensorImpl, c10::UndefinedTensorImpl>;

    struct State {
        Weak gradient; // its address is not used again
        uint32_t version;
    };

    // The gradients that the leaves have, each once although two of them may share it. Returns whether all are plain.
    bool collect(std::vector<Tensor> &gradients) {
        seen_.clear();
        gradients.reserve(leaves_.size());
        for (const Tensor &leaf : leaves_) {
            const Tensor &gradient = leaf.grad();
            if (!gradient.defined()) continue;
            if (!is_plain(gradient)) return false;
            if (seen_.insert(gradient.unsafeGetTensorImpl()).second) gradients.push_back(gradient);
        }
        return true;
    }

    // Returns 1 where a product is not finite, 0, or -1 with nothing done.
    int multiply(const std::vector<Tensor> &gradients, double factor) {
        std::vector<void *> tensors;
        tensors.reserve(gradients.size());
        for (const Tensor &gradient : gradients) tensors.push_back(gradient.unsafeGetTensorImpl());
        std::vector<uint8_t> served(gradients.size());
        const int threads = at::get_num_threads();
        int bad;
        {
            const WithoutLock other_threads_go_on;
            bad = unscale_(tensors.data(), tensors.size(), served.data(), factor, factor != 1.0, 0, threads, torch_);
        }
        if (bad >= 0 && factor != 1.0) // tell autograd of the writing, as PyTorch's operations do
            for (const Tensor &gradient : gradients) gradient.unsafeGetTensorImpl()->bump_version();
        return bad;
    }

    void remember(const std::vector<Tensor> &gradients, bool bad) {
        if (tested_.size() > 2 * gradients.size()) // of a program that makes no steps
            for (auto it = tested_.begin(); it != tested_.end();)
                it = it->second.gradient.expired() ? tested_.erase(it) : std::next(it);
        for (const Tensor &gradient : gradients) {
            TensorImpl *const impl = gradient.unsafeGetTensorImpl();
            tested_.insert_or_assign(impl, State{Weak(gradient.getIntrusivePtr()), version_of(impl)});
        }
        const bool superseded = tested_.size() == gradients.size(); // what was found before
        bad_ = bad || (bad_ && !superseded);
    }

    const Unscale unscale_;
    const void *const torch_;
    const Begun begun_;

    // of the pass under way
    double scale_ = 1.0;
    bool always_tell_ = false, begun_once_ = false;
    std::decay_t<decltype(std::declval<const Tensor &>().grad_fn())> first_; // a pointer of PyTorch's, which one depends
    const Hook *hook_ = nullptr;
    std::vector<Tensor> leaves_;

    ska::flat_hash_set<TensorImpl *> seen_;
    ska::flat_hash_map<TensorImpl *, State> tested_;
    bool bad_ = false; // whether one of them was not finite
};

// What PyTorch's engine does at the end of every node of a pass that does not keep its graph: from `outputs`, of all nodes
// that lead to one of `inputs`, or of all where there are none.
void release(void *const *outputs, int64_t n, void *const *inputs, int64_t m) {
    using torch::autograd::Node;
    ska::flat_hash_map<Node *, bool> leads; // whether the engine has come by
    ska::flat_hash_set<Node *> asked;
    for (void *const *input = inputs; input < inputs + m; input++) {
        const auto edge = torch::autograd::impl::gradient_edge(tensor_at(*input));
        if (edge.function) asked.insert(edge.function.get());
    }
    std::vector<std::pair<Node *, size_t>> path; // depth first, with the next of each node's edges
    for (void *const *output = outputs; output < outputs + n; output++) {
        Node *const root = torch::autograd::impl::gradient_edge(tensor_at(*output)).function.get();
        if (root != nullptr && leads.emplace(root, false).second) path.emplace_back(root, 0);
        while (!path.empty()) {
            auto &[node, next] = path.back();
            if (next < node->num_outputs()) {
                Node *const after = node->next_edge(next++).function.get();
                if (after != nullptr && leads.emplace(after, false).second) path.emplace_back(after, 0);
                continue;
            }
            bool found = m == 0;
            for (const auto &edge : node->next_edges())
                found = found || (edge.function && (asked.count(edge.function.get()) || leads[edge.function.get()]));
            leads[node] = found;
            path.pop_back();
        }
    }
    for (const auto &[node, found] : leads)
        if (found) node->release_variables();
}

} // namespace

extern "C" {

int hs_release(void *const *outputs, int64_t n, void *const *inputs, int64_t m) {
    try {
        release(outputs, n, inputs, m);
        return 1;
    } catch (const std::exception &) {
        return 0;
    }
}

void *hs_new(Unscale unscale, const void *torch, Begun begun) { return new ScaledPass(unscale, torch, begun); }

void hs_delete(ScaledPass *pass) { delete pass; }

// 0, too, where PyTorch refuses to tell the node: it will tell Python why.
int hs_expect(ScaledPass *pass, void *output, double scale, int always_tell) {
    try {
        return pass->expect(tensor_at(output), scale, always_tell);
    } catch (const std::exception &) {
        return 0;
    }
}

// Appends the leaves to a list. Returns 0, or -1 with an exception set.
int hs_leaves(const ScaledPass *pass, _object *list) {
    const std::vector<Tensor> leaves = pass->leaves(); // making objects may let another thread run
    for (const Tensor &leaf : leaves) {
        _object *const tensor = THPVariable_Wrap(leaf);
        if (tensor == nullptr) return -1;
        const int failed = PyList_Append(list, tensor);
        Py_DecRef(tensor);
        if (failed) return -1;
    }
    return 0;
}

void hs_leave(ScaledPass *pass) { pass->leave(); }

void hs_end(ScaledPass *pass) { pass->end(); }

int hs_unscale(ScaledPass *pass, double factor) { return pass->unscale(factor); }

int hs_holds(const ScaledPass *pass, void *const *tensors, int64_t n, int parameters, void **memories, int64_t m) {
    return pass->holds(tensors, n, parameters, memories, m);
}

int hs_unchanged(const ScaledPass *pass) { return pass->unchanged(); }

void hs_written(ScaledPass *pass) { pass->written(); }

void hs_forget(ScaledPass *pass) { pass->forget(); }
}
