"""Folder for results, made before a long run, warnings, and the exit code if some results are missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_uflow.image.plane import Plane

__all__ = ["EXIT_FAILED", "files_of", "made_output", "warn"]

EXIT_FAILED = 1
"""Exit code if some files failed, or a model was saved elsewhere."""


def made_output(folder: Path | None) -> AbstractContextManager[None]:
    """Provide the folder for results, see :func:`~napari_uflow.store.files.made_folder`; None for a command without."""
    from napari_uflow.store.files import made_folder

    return nullcontext() if folder is None else made_folder(folder)


def files_of(planes: Iterable[Plane]) -> list[Path]:
    """Return the files of planes; those in memory have none."""
    return [Path(plane.source) for plane in planes if plane.source]


def warn(text: str) -> None:
    """Print a warning."""
    print(f"warning: {text}", file=sys.stderr)
