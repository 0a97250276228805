"""What torch has to be told on Apple's computers before it is loaded."""

import os
import sys

__all__ = ["let_missing_operations_run_on_the_processor"]


def let_missing_operations_run_on_the_processor() -> None:
    """Let what Apple's GPUs cannot do run on the processor; to be called before torch is loaded, which reads it once.

    A user who has set the environment variable PYTORCH_ENABLE_MPS_FALLBACK is obeyed.
    """
    if sys.platform == "darwin":
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
