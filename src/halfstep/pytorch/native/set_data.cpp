// Gives a tensor the numbers, the memory and the dtype of another one, as `tensor.data = other` does, except that its
// AccumulateGrad node stays, and with it the hooks on that node. Where the dtype changes, PyTorch drops the node: the
// caller has to put the dtype back before the next backward pass reaches it.
#include <c10/core/TensorImpl.h>

#include <exception>

using c10::TensorImpl;

extern "C" {
// Both as Python has them in Tensor._cdata. Returns 0, or -1 where PyTorch refuses it.
int hs_set_data(TensorImpl *tensor, TensorImpl *data) {
    try {
        tensor->shallow_copy_from(c10::intrusive_ptr<TensorImpl>::unsafe_reclaim_from_nonowning(data));
        return 0;
    } catch (const std::exception &) {
        return -1;
    }
}
}
