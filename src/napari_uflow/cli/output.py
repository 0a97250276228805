"""Places for results, checked before a long run, warnings, and the exit code if some results are missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow.errors import ConfigError

if TYPE_CHECKING:
    from napari_uflow.image.plane import Plane

__all__ = ["EXIT_FAILED", "check_folder", "files_of", "warn"]

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


def files_of(planes: Iterable[Plane]) -> list[Path]:
    """Return the files of planes; those in memory have none."""
    return [Path(plane.source) for plane in planes if plane.source]


def warn(text: str) -> None:
    """Print a warning."""
    print(f"warning: {text}", file=sys.stderr)
