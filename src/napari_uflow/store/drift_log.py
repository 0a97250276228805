"""Drift log: for each image that a model has inspected, statistics of it as a whole; a file beside the model.

A line is a JSON object: version of the program, model, time, name of the image, checksums of its pixels and of its
specimen, and its statistics. Lines are only ever added, each as a whole, so that several programs may write at once.
Lines of other models, of other programs and damaged ones are skipped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_uflow import __version__
from napari_uflow.errors import UFlowError
from napari_uflow.store.provenance import is_own

__all__ = ["DriftEntry", "DriftLog", "drift_log_path"]

_MODEL_SUFFIX = ".safetensors"
_RESET = "reset"


def drift_log_path(model: str | os.PathLike[str]) -> Path:
    """Return the place of the drift log of a model file: ``model.drift.jsonl`` beside ``model.safetensors``."""
    path = Path(model)
    return path.with_name(f"{path.name.removesuffix(_MODEL_SUFFIX)}.drift.jsonl")


@dataclass(frozen=True, kw_only=True)
class DriftEntry:
    """An image in the log.

    Attributes
    ----------
    time : str
        Time of the detection; ISO 8601, UTC.
    image : str
        Name of the image.
    key : str
        Checksum of its pixels, hexadecimal: an image that is detected again has the same.
    specimen : str
        Checksum of the specimen, hexadecimal.
    is_of_training : bool
        The image has the name of a specimen of the training.
    profile : tuple of float
        Statistics of the image as a whole; NaN for one that is unknown.
    """

    time: str
    image: str
    key: str
    specimen: str
    is_of_training: bool
    profile: tuple[float, ...]


class DriftLog:
    """Log of one model; what other programs add meanwhile is read too.

    Parameters
    ----------
    path : Path
        File of the log; it need not exist.
    model : str
        Checksum of the calibration that the statistics are compared with.
    n_statistics : int
        Statistics of an image.

    Attributes
    ----------
    path : Path
        File of the log.
    n_skipped : int
        Lines read so far that are damaged or of another program.
    """

    def __init__(self, path: Path, model: str, n_statistics: int) -> None:
        self.path = path
        self.n_skipped = 0
        self._model, self._n_statistics = model, n_statistics
        self._n_read = 0

    def append(self, entry: DriftEntry) -> None:
        """Add an image.

        Raises
        ------
        UFlowError
            If the file cannot be written, or belongs to another program.
        """
        profile = [None if math.isnan(value) else value for value in entry.profile]
        self._write({**asdict(entry), "profile": profile})

    def reset(self, time: str) -> None:
        """Add a line after which the images before it no longer count.

        Raises
        ------
        UFlowError
            As for :meth:`append`.
        """
        self._write({_RESET: True, "time": time})

    def _write(self, values: Mapping[str, Any]) -> None:
        text = json.dumps({"napari_uflow": __version__, "model": self._model, **values}, allow_nan=False)
        line = f"{text}\n".encode()
        try:
            if self.path.exists() and not self._is_log():
                raise UFlowError(f"'{self.path}' is not a drift log of this program; move that file")
            with open(self.path, "ab+", buffering=0) as file:  # each line in one call, at the end whoever else writes
                if file.seek(0, os.SEEK_END) and not _ends_with_newline(file):  # of a program that was killed
                    line = b"\n" + line
                if file.write(line) != len(line):
                    raise OSError(0, "the disk is full")
        except OSError as error:
            raise UFlowError(f"'{self.path}' cannot be written ({error.strerror or error})") from error

    def _is_log(self) -> bool:
        return self.path.is_file() and (not self.path.stat().st_size or is_own(self.path))

    def read_new(self) -> list[DriftEntry | None]:
        """Return the entries of this model that were added since the last call; None stands for a reset.

        Raises
        ------
        UFlowError
            If the file exists and cannot be read.
        """
        try:
            if not self.path.is_file():  # opening a pipe would wait for ever
                return self._begin_again()
            with open(self.path, "rb") as file:
                begun = self._begin_again() if os.fstat(file.fileno()).st_size < self._n_read else []
                file.seek(self._n_read)
                data = file.read()
        except OSError as error:
            raise UFlowError(f"'{self.path}' cannot be read ({error.strerror or error})") from error
        data = data[: data.rfind(b"\n") + 1]  # without a line that is being written
        self._n_read += len(data)
        return [*begun, *(entry for line in data.splitlines() if line.strip() for entry in self._parsed(line))]

    def _begin_again(self) -> list[DriftEntry | None]:
        """Forget a file that was deleted or replaced."""
        had_lines, self._n_read = self._n_read > 0, 0
        return [None] if had_lines else []

    def _parsed(self, line: bytes) -> list[DriftEntry | None]:
        try:
            values = json.loads(line)
            if values["model"] != self._model:
                return []
            if _RESET in values:
                return [None]
            profile = tuple(math.nan if value is None else float(value) for value in values["profile"])
            if len(profile) != self._n_statistics or any(map(math.isinf, profile)):
                raise ValueError("statistics of another kind")
            int(values["key"], 16)
            texts = {name: str(values[name]) for name in ("time", "image", "key", "specimen")}
            return [DriftEntry(**texts, is_of_training=bool(values["is_of_training"]), profile=profile)]
        except (ValueError, LookupError, TypeError, RecursionError):
            self.n_skipped += 1
            return []


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
