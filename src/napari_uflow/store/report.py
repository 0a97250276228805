"""Numbers of an evaluation or of a trust report as JSON, signed by the program."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from napari_uflow import __version__
from napari_uflow.store.files import atomic_path

__all__ = ["write_report"]


def write_report(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write numbers to a JSON file, completely or not at all.

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced.
    values : mapping
        Plain values without NaN and infinities. The version of the program precedes them: by it
        :func:`~napari_uflow.store.provenance.is_own` knows the file.

    Raises
    ------
    UFlowError
        If the file cannot be written.
    """
    text = json.dumps({"napari_uflow": __version__, **values}, indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
