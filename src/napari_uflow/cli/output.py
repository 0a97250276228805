"""Places for results, checked before a long run, warnings, and the exit code if some results are missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from napari_uflow.errors import ConfigError

__all__ = ["EXIT_FAILED", "check_folder", "warn"]

EXIT_FAILED = 1
"""Exit code if some files failed, or a model was saved elsewhere."""


def check_folder(folder: Path) -> None:
    """Create a folder for results, and remove what killed runs have left in it.

    Raises
    ------
    ConfigError
        If it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to the folder '{folder}': {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write to '{folder}'; choose another --output")
    from napari_uflow.store.files import remove_leftovers

    remove_leftovers(folder)


def warn(text: str) -> None:
    """Print a warning."""
    print(f"warning: {text}", file=sys.stderr)
