"""Files of images, opened for each read; a change between two reads is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from napari_uflow.errors import ImageError

__all__ = ["SourceFile"]


class SourceFile:
    """File that another program may replace while it is read in parts: then the parts would be of two images.

    Parameters
    ----------
    path : path-like
        File.

    Raises
    ------
    OSError
        If the file does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._state = _state(os.stat(path))

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """Open the file.

        Raises
        ------
        ImageError
            If the file has changed since it was first seen.
        OSError
            If it cannot be opened.
        """
        with open(self.path, "rb", buffering=0) as file:
            if _state(os.fstat(file.fileno())) != self._state:
                raise ImageError(f"'{self.path}' has changed since it was opened; open it again")
            yield file


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
