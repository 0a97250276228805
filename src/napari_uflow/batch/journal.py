"""Journal of an unfinished batch: what it computes, and the result of each finished file; it marks the folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_uflow import __version__
from napari_uflow.batch.mark import UNFINISHED
from napari_uflow.batch.results import FileResult
from napari_uflow.config import DetectionConfig
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.store.checkpoint import checksum_of
from napari_uflow.store.files import append_text, atomic_path

__all__ = ["Journal", "task_of"]


def task_of(model: TrainedModel, config: DetectionConfig, read_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a batch computes, whatever its images: two batches with the same can be continued by each other.

    Parameters
    ----------
    model, config
        Model and parameters of the detection.
    read_options : mapping
        Channels, axes and series of the images.
    """
    identity = json.dumps([model.config.to_dict(), model.record.date, checksum_of(model.state)], default=str)
    return {
        "napari_uflow": __version__,
        "model": hashlib.sha256(identity.encode()).hexdigest(),
        "detection": config.to_dict(),
        "images": json.loads(json.dumps(read_options)),
    }


class Journal:
    """File with a line for the task of a batch, and one for each processed file.

    A line that was not written to its end, when the batch was killed, is ignored.

    Parameters
    ----------
    folder : Path
        Output folder of the batch.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / UNFINISHED

    def read(self) -> tuple[dict[str, Any] | None, list[FileResult]]:
        """Return the task, None without a readable journal, and the results whose images are still the same."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            task = json.loads(lines[0])
        except (OSError, ValueError, IndexError):
            return None, []
        found: dict[Path, FileResult] = {}
        for line in lines[1:]:
            try:
                values = json.loads(line)
                result = FileResult.from_dict(values)
                state = values["state"]
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            if state is not None and state == _state(result.path):
                found[result.path] = result
        return task if isinstance(task, dict) else None, list(found.values())

    def begin(self, task: Mapping[str, Any], results: Sequence[FileResult] = ()) -> None:
        """Write the task and the results of a batch that is continued; UFlowError if that fails."""
        with atomic_path(self._path) as temporary:
            lines = [json.dumps(task), *map(_line, results)]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def append(self, result: FileResult) -> None:
        """Add the result of a processed file; UFlowError if that fails."""
        append_text(self._path, _line(result) + "\n")

    def end(self) -> None:
        """Remove the journal: the batch is finished."""
        self._path.unlink(missing_ok=True)


def _line(result: FileResult) -> str:
    # of the path as the next batch may give it, perhaps in another working directory
    return json.dumps({**result.to_dict(), "path": os.path.abspath(result.path), "state": _state(result.path)})


def _state(path: Path) -> list[int] | None:
    """Return size and time of a file; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
