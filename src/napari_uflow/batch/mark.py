"""Mark of a folder in which a batch was killed or stopped, or still runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["UNFINISHED", "is_unfinished"]

UNFINISHED = "unfinished.jsonl"
"""File with the results so far; it is removed when the batch ends."""


def is_unfinished(folder: str | os.PathLike[str]) -> bool:
    """Return True if a folder has results of an unfinished batch.

    Parameters
    ----------
    folder : path-like
        Output folder; it need not exist.
    """
    return os.path.lexists(Path(folder) / UNFINISHED)
