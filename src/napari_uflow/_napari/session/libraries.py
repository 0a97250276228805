"""Loading torch and its like into a program that already draws with OpenGL, and whose window is to stay alive."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_uflow.system.apple import enable_mps_fallback

__all__ = ["load_libraries", "make_torch_safe"]

# What a job imports.
_LIBRARIES = {"napari_uflow.detection.detect", "napari_uflow.store.checkpoint", "napari_uflow.training.train"}
_RTLD_NOW = 2


def make_torch_safe() -> None:
    """Call this before torch may be imported in the process of a viewer; takes no time once it was done.

    On Linux torch comes with triton, which brings an LLVM of its own. Mesa's drivers (software, AMD, Intel) load
    another LLVM when the first window is drawn, and a triton that is loaded after it takes that one's functions for
    its own: the program dies without a word. Bound deeply, triton keeps to its own. Seen with triton 3.8 and LLVM 15.
    """
    enable_mps_fallback()
    if not hasattr(os, "RTLD_DEEPBIND") or "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        importlib.import_module("triton")
    except (ImportError, OSError, RuntimeError):  # torch does without it
        pass
    finally:
        sys.setdlopenflags(flags)


def load_libraries() -> None:
    """Import what a job needs, from a worker; takes no time once it was done.

    An import holds the interpreter while it loads a shared library, and makes the garbage collector walk through a
    million objects again and again: the window stood still for up to half a second. So torch's libraries are loaded
    first by a call that lets the other threads run, and the collector rests meanwhile.
    """
    if set(sys.modules) >= _LIBRARIES:
        return
    with _resting_collector():
        if "torch" not in sys.modules and sys.platform == "linux":
            _load_torch_without_lock()
        make_torch_safe()
        for name in sorted(_LIBRARIES):
            importlib.import_module(name)


@contextmanager
def _resting_collector() -> Iterator[None]:
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # What was made meanwhile goes among the old objects at once: it would be walked through as new otherwise.
        gc.freeze()
        gc.unfreeze()
        if is_on:
            gc.enable()


def _load_torch_without_lock() -> None:
    """Load torch's shared libraries; a failure is left to the import that follows."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return
    library = Path(torch.origin).parent / "lib" / "libtorch_python.so"
    program = ctypes.CDLL(None)
    if library.is_file() and hasattr(program, "dlopen"):
        program.dlopen.restype = ctypes.c_void_p
        program.dlopen(os.fsencode(library), _RTLD_NOW)
