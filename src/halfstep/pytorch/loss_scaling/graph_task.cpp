// Which leaf tensors the backward pass under way will accumulate gradients into.
//
// PyTorch's engine walks the graph before it executes it, to count what each node waits for, and keeps the set of all
// nodes. To go through that set takes a tenth of what walking the graph from Python does, which makes an object of every
// node. Called with Python's lock held. Python's own headers may not be installed: what is used of them is declared.
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <algorithm>
#include <functional>
#include <typeinfo>
#include <vector>

struct _object;
extern "C" int PyList_Append(_object *, _object *);
extern "C" void Py_DecRef(_object *);
_object *THPVariable_Wrap(const at::TensorBase &); // torch/csrc/autograd/python_variable.h

using torch::autograd::AccumulateGrad;

// Appends them to a list, and returns 0. Returns -1 where this thread is in no backward pass, -2 with an exception set.
extern "C" int hs_leaves(_object *list) {
    const auto *nodes = torch::autograd::get_current_graph_task_nodes_in_graph();
    if (nodes == nullptr) return -1;
    std::vector<const at::Tensor *> leaves;
    for (torch::autograd::Node *node : *nodes)
        if (typeid(*node) == typeid(AccumulateGrad)) leaves.push_back(&static_cast<AccumulateGrad *>(node)->variable);
    // In the order that they were made in, more or less: what is done to one after the other lies side by side.
    std::sort(leaves.begin(), leaves.end(), [](const at::Tensor *a, const at::Tensor *b) {
        return std::less<>()(a->unsafeGetTensorImpl(), b->unsafeGetTensorImpl());
    });
    for (const at::Tensor *leaf : leaves) {
        _object *tensor = THPVariable_Wrap(*leaf);
        if (tensor == nullptr) return -2;
        const int failed = PyList_Append(list, tensor);
        Py_DecRef(tensor);
        if (failed) return -2;
    }
    return 0;
}
