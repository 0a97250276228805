"""Order in which large libraries must be loaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

from napari_uflow.system.apple import enable_mps_fallback

__all__ = ["make_torch_safe", "make_torch_safe_beside_windows"]

# One of them is loaded in a process that draws windows.
_WINDOWS = frozenset({"OpenGL", "PyQt5", "PyQt6", "PySide2", "PySide6", "napari", "vispy", "vtkmodules"})


def make_torch_safe() -> None:
    """Prepare the process for the import of torch; a second call takes no time.

    On Linux torch depends on triton, which contains its own LLVM. Mesa's drivers (software, AMD, Intel) load another
    LLVM with the first window, and a triton that is loaded later binds to its symbols: the process crashes. With
    RTLD_DEEPBIND triton binds to its own. Seen with triton 3.8 and LLVM 15.
    """
    enable_mps_fallback()
    if not hasattr(os, "RTLD_DEEPBIND") or "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        importlib.import_module("triton")
    except (ImportError, OSError, RuntimeError):  # torch works without it
        pass
    finally:
        sys.setdlopenflags(flags)


def make_torch_safe_beside_windows() -> None:
    """Call :func:`make_torch_safe` if the process may have drawn a window; elsewhere it would take time."""
    enable_mps_fallback()
    if not _WINDOWS.isdisjoint(sys.modules):
        make_torch_safe()
