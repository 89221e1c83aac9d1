"""A scaled backward pass over leaves on a CPU that needs no Python object for each."""

from __future__ import annotations

import ctypes
import functools
import weakref
from array import array
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, UntypedStorage
from torch.optim import Optimizer

from halfstep.pytorch.loss_scaling import gradient_kernels as kernels_in_c
from halfstep.pytorch.loss_scaling.gradient_kernels import GradientKernels, gradient_kernels
from halfstep.pytorch.native import builder as native
from halfstep.pytorch.native.builder import FOLDER

SOURCE = FOLDER / "scaled_pass.cpp"
SOURCES = (SOURCE, kernels_in_c.SOURCE)

_pointer, _int = ctypes.c_void_p, ctypes.c_int
_Begun = ctypes.CFUNCTYPE(None, _int)
_FUNCTIONS = {
    "hs_new": (_pointer, (_pointer, _pointer, _Begun)),
    "hs_delete": (None, (_pointer,)),
    "hs_expect": (_int, (_pointer, _pointer, ctypes.c_double, _int)),
    "hs_leaves": (_int, (_pointer, ctypes.py_object)),
    "hs_leave": (None, (_pointer,)),
    "hs_end": (None, (_pointer,)),
    "hs_unscale": (_int, (_pointer, ctypes.c_double)),
    "hs_holds": (_int, (_pointer, _pointer, ctypes.c_int64, _int, _pointer, ctypes.c_int64)),
    "hs_unchanged": (_int, (_pointer,)),
    "hs_written": (None, (_pointer,)),
    "hs_forget": (None, (_pointer,)),
    "hs_release": (_int, (_pointer, ctypes.c_int64, _pointer, ctypes.c_int64)),
}


class NoScaledPass:
    """Leaves everything to the caller: there is no compiler, or no scale.

    Attributes:
        remembers: whether there is a result that :meth:`forget` would drop.
    """

    remembers = False

    def expect(
        self, output: Tensor, scale: float, rest: Callable[[bool | None], None], always: bool = False
    ) -> bool:
        """False: the pass from ``output`` will not list its leaves."""
        return False

    def check(self) -> None:
        """Nothing."""

    def leaves(self) -> list[Tensor]:
        """None."""
        return []

    def leave(self) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def unscale(self, factor: float) -> bool:
        """False: it was not done."""
        return False

    def holds(self, gradients: Iterable[Tensor], exposed: Iterable[UntypedStorage] = ()) -> bool:
        """Whether :meth:`unscale` has found all of them finite, and none was written to since."""
        return False

    def holds_of(self, optimizer: Optimizer, exposed: Iterable[UntypedStorage] = ()) -> bool:
        """As :meth:`holds`, for all gradients that ``optimizer`` is about to use."""
        return False

    def unchanged(self) -> bool:
        """Whether some gradients were found finite, and none of them was written to since."""
        return False

    def written(self) -> None:
        """Nothing."""

    def forget(self) -> None:
        """Nothing."""


class ScaledPass(NoScaledPass):
    """The leaves of the running pass, as PyTorch's engine knows them, and whether their gradients are finite.

    If some gradients are not plain tensors on a CPU, all are left to the caller unchanged.
    """

    def __init__(self, library: ctypes.CDLL, kernels: GradientKernels) -> None:
        self._library = library
        self._kernels = kernels  # kept alive: the C++ code has pointers to them
        me = weakref.ref(self)
        self._begun = _Begun(lambda reached: _begun(me, reached))
        self._pass = library.hs_new(*kernels.pointers, self._begun)
        self._rest: Callable[[bool | None], None] | None = None
        self._error: BaseException | None = None
        self.remembers = False
        weakref.finalize(self, library.hs_delete, self._pass).atexit = False

    def expect(
        self, output: Tensor, scale: float, rest: Callable[[bool | None], None], always: bool = False
    ) -> bool:
        """Let the pass that starts from ``output`` list its leaves, and multiply the gradients that they have.

        Args:
            output: the only output of the graph that the pass starts from.
            scale: a power of two.
            rest: does the remaining work when the pass begins. It is called with False if the gradients of the listed
                leaves remain to be multiplied; with None, once or several times, if other leaves may have to be
                followed: PyTorch's engine does not execute the pass (a compiled one), or a pass inside it began.
            always: call ``rest`` with True, too, if nothing remains.

        Returns:
            Whether the pass will do so; it will not if ``output`` is a leaf.
        """
        self._rest, self._error = rest, None
        return bool(self._library.hs_expect(self._pass, output._cdata, scale, always))

    def check(self) -> None:
        """Raise the exception that ``rest`` has raised, if any."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def began(self, reached: int) -> None:
        """Called by the C++ code, through which no exception can pass."""
        try:
            if self._rest is not None:
                self._rest(None if reached < 0 else reached == 0)
        except BaseException as error:
            self._error = error

    def leaves(self) -> list[Tensor]:
        """The listed leaves, each once, in the order in which they lie in memory."""
        found: list[Tensor] = []
        self._library.hs_leaves(self._pass, found)
        return found

    def leave(self) -> None:
        """List no leaves any more: they are followed elsewhere."""
        self._library.hs_leave(self._pass)

    def end(self) -> None:
        """The pass is over."""
        self._library.hs_end(self._pass)
        self._rest = None

    def unscale(self, factor: float) -> bool:
        """Multiply the listed leaves' gradients by ``factor`` and test the products; returns whether it was done."""
        done = bool(self._library.hs_unscale(self._pass, factor))
        self.remembers = self.remembers or done
        return done

    def holds(self, gradients: Iterable[Tensor], exposed: Iterable[UntypedStorage] = ()) -> bool:
        """Whether :meth:`unscale` has found all of them finite, and none was written to since.

        Args:
            exposed: memory that may have been written to, uncounted by PyTorch.
        """
        return self._holds(array("Q", [gradient._cdata for gradient in gradients]), False, exposed)

    def holds_of(self, optimizer: Optimizer, exposed: Iterable[UntypedStorage] = ()) -> bool:
        parameters = [p._cdata for group in optimizer.param_groups for p in group["params"]]
        return self._holds(array("Q", parameters), True, exposed)

    def _holds(self, addresses: array[int], parameters: bool, exposed: Iterable[UntypedStorage]) -> bool:
        memories = array("Q", [storage._cdata for storage in exposed])
        return bool(
            self._library.hs_holds(
                self._pass, addresses.buffer_info()[0], len(addresses), parameters,
                memories.buffer_info()[0], len(memories),
            )
        )  # fmt: skip

    def unchanged(self) -> bool:
        return self.remembers and bool(self._library.hs_unchanged(self._pass))

    def written(self) -> None:
        """Note that the gradients were written to, and are still finite."""
        self._library.hs_written(self._pass)

    def forget(self) -> None:
        """Forget the results for gradients."""
        if self.remembers:
            self._library.hs_forget(self._pass)
            self.remembers = False


def _begun(scaled_pass: weakref.ref[ScaledPass], reached: int) -> None:
    if (alive := scaled_pass()) is not None:
        alive.began(reached)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = native.library(SOURCE, ctypes.PyDLL)
    if library is not None:
        for name, (returned, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = returned, arguments
    return library


def release(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> bool:
    """Free the buffers of the graph from ``outputs`` to ``inputs``, as a pass that does not keep it does at its end.

    Args:
        inputs: tensors in the graph; none for the whole graph.

    Returns:
        Whether it was done; not without a compiler.
    """
    if (library := _library()) is None:
        return False
    first, last = (array("Q", [tensor._cdata for tensor in tensors]) for tensors in (outputs, inputs))
    return bool(library.hs_release(first.buffer_info()[0], len(first), last.buffer_info()[0], len(last)))


def scaled_pass() -> ScaledPass | None:
    """The compiled pass; None without a compiler or under another PyTorch. The first call may compile for seconds."""
    library, kernels = _library(), gradient_kernels()
    return None if library is None or kernels is None else ScaledPass(library, kernels)
