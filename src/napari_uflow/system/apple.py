"""Settings of torch on Apple computers that must be made before it is loaded."""

import os
import sys

__all__ = ["enable_mps_fallback"]


def enable_mps_fallback() -> None:
    """Run operations that Apple GPUs do not support on the processor; call before torch is loaded.

    The environment variable PYTORCH_ENABLE_MPS_FALLBACK is kept if the user has set it.
    """
    if sys.platform == "darwin":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
