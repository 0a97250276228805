"""Import torch and other large libraries into a viewer that already uses OpenGL, without freezing its window."""

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

from napari_uflow.system.libraries import make_torch_safe

__all__ = ["are_loaded", "load_libraries"]

# Imported by a job.
_LIBRARIES = {"napari_uflow.detection.detect", "napari_uflow.store.checkpoint", "napari_uflow.training.train"}
_RTLD_NOW = 2


def are_loaded() -> bool:
    """Return whether the libraries of a job have been imported."""
    return set(sys.modules) >= _LIBRARIES


def load_libraries() -> None:
    """Import the libraries of a job, in a worker; a second call takes no time.

    An import holds the GIL while it loads a shared library, and triggers garbage collections over a million objects:
    the window froze for up to half a second. Therefore torch's libraries are loaded first by a call that releases the
    GIL, with the collector disabled.
    """
    if are_loaded():
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
        # Move the new objects to the oldest generation at once; otherwise the collector visits them again as new ones.
        gc.freeze()
        gc.unfreeze()
        if is_on:
            gc.enable()


def _load_torch_without_lock() -> None:
    """Load torch's shared libraries; the import that follows reports a failure."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return
    library = Path(torch.origin).parent / "lib" / "libtorch_python.so"
    program = ctypes.CDLL(None)
    if library.is_file() and hasattr(program, "dlopen"):
        program.dlopen.restype = ctypes.c_void_p
        program.dlopen(os.fsencode(library), _RTLD_NOW)
