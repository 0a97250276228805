"""Loading torch into a program that already draws with OpenGL."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

__all__ = ["make_torch_safe"]


def make_torch_safe() -> None:
    """Call this before torch may be imported in the process of a viewer; takes no time once it was done.

    On Linux torch comes with triton, which brings an LLVM of its own. Mesa's drivers (software, AMD, Intel) load
    another LLVM when the first window is drawn, and a triton that is loaded after it takes that one's functions for
    its own: the program dies without a word. Bound deeply, triton keeps to its own. Seen with triton 3.8 and LLVM 15.
    """
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
