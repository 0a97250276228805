"""Detection in many files: images in, TIFF, CSV and an overview out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_uflow.batch.output import overview_row, write_detections
from napari_uflow.batch.results import N_OVERVIEW, BatchSummary, Collected, FileResult
from napari_uflow.config import DetectionConfig
from napari_uflow.detection.result import Detection
from napari_uflow.detection.stack import detect_stack_steps
from napari_uflow.errors import ConfigError, ImageError, Stopped, UFlowError
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import FINISH, Message, Progress, Steps, or_stop, within
from napari_uflow.store.files import stem_of
from napari_uflow.store.images import read_planes
from napari_uflow.system.devices import choose_device

__all__ = ["PHASE", "detect_file_steps", "detect_files_steps", "prepare"]

PHASE = "Processing files"
"""Phase of the progress events that count files."""


def detect_files_steps(
    model: TrainedModel,
    paths: Sequence[Path],
    output: str | Path,
    config: DetectionConfig,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    series: int | str | None = None,
    device: str = "auto",
    weights: str | Path | None = None,
) -> Steps[BatchSummary]:
    """Detect in files and write the results to a folder.

    For an image ``NAME`` it writes ``NAME_heatmap.tif`` (float32), ``NAME_log10_nfa.tif`` (float32) and
    ``NAME_labels.tif`` (0 is background) as calibrated TIFF with the axes of the image, and for all images
    ``regions.csv``, ``summary.csv`` (one row per file) and ``overview.png``. A failed file is listed in the summary and
    does not stop the batch.

    Parameters
    ----------
    model : TrainedModel
        Trained model.
    paths : sequence of Path
        Files of images or stacks.
    output : path
        Folder to write to; created if it does not exist.
    config : DetectionConfig
        Parameters of the detection.
    channels, axes, series
        As in :func:`~napari_uflow.store.images.read_planes`.
    device, weights
        As in :func:`~napari_uflow.evaluation.evaluate.evaluate_steps`.

    Yields
    ------
    Message or Progress
        The answer FINISH ends the batch; the files processed so far are kept and the summary reports the stop.

    Returns
    -------
    BatchSummary

    Raises
    ------
    ConfigError
        If two files would write to the same names.
    UFlowError
        If the folder cannot be created.
    """
    paths, output = prepare(paths, output)
    network = model.network(choose_device(device), weights)
    collected = Collected()
    was_stopped = False
    for i, path in enumerate(paths):
        progress = Progress(PHASE, i, len(paths))
        answer = yield progress
        if answer is FINISH:
            was_stopped = True
            break
        try:
            steps = detect_file_steps(model, network, path, output, config, channels=channels, axes=axes, series=series)
            result = yield from steps if len(paths) == 1 else within(steps, progress)
        except Stopped:
            was_stopped = True
            break
        collected.add(result)
        if result.reason:
            yield Message(result.reason, warning=True, source=path)
    else:
        yield Progress(PHASE, len(paths), len(paths))
    return collected.write(output, was_stopped=was_stopped, order=paths)


def prepare(paths: Sequence[Path], output: str | Path) -> tuple[list[Path], Path]:
    """Check the names of the files and create the output folder; errors as in :func:`detect_files_steps`."""
    paths = [Path(path) for path in paths]
    _check_names(paths)
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UFlowError(
            f"the folder '{output}' cannot be created ({error.strerror or error}); choose another output folder"
        ) from error
    return paths, output


def detect_file_steps(
    model: TrainedModel,
    network: UFlow,
    path: Path,
    output: Path,
    config: DetectionConfig,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    series: int | str | None = None,
) -> Steps[FileResult]:
    """Detect in one file and write its maps; the failure of a file is returned as a result with a reason.

    Parameters
    ----------
    model, config, channels, axes, series
        As in :func:`detect_files_steps`.
    network : UFlow
        ``model.network(...)``.
    path : Path
        File.
    output : Path
        Existing folder.

    Raises
    ------
    Stopped
        If the job was asked to finish.
    """
    try:
        planes = read_planes(path, channels=channels, axes=axes, series=series)
        _check_sizes(planes)
        detections = yield from detect_stack_steps(model, planes, config, network=network)
        yield from or_stop(Progress("Writing", 0, 1))  # once begun, writing is completed
        write_detections(output, stem_of(path), planes, detections)
    except Stopped:
        raise
    except (UFlowError, MemoryError) as error:
        return FileResult(path, reason=str(error) or "not enough memory: choose a smaller tile")
    lowest = [found.lowest_log10_nfa for found in detections]
    most_anomalous = np.argsort(lowest, kind="stable")[:N_OVERVIEW]
    rows = tuple((lowest[i], overview_row(planes[i], detections[i])) for i in most_anomalous)
    empty = np.zeros((0, 0), dtype=np.float32)
    no_labels = empty.astype(np.int32)
    tables = [replace(d, score=empty, log10_nfa=empty, labels=no_labels, energies=()) for d in detections]
    return FileResult(path, tuple(_numbered(tables)), rows, min(lowest))


def _check_names(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        stem = stem_of(path)
        if stem in seen:
            raise ConfigError(f"'{seen[stem]}' and '{path}' have the same output files; process one folder at a time")
        seen[stem] = path


def _check_sizes(planes: Sequence[Plane]) -> None:
    shapes = sorted({plane.shape for plane in planes})
    if len(shapes) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in shapes)
        named = ", ".join(f"'{name}'" for name in dict.fromkeys(plane.name for plane in planes))
        raise ImageError(
            f"the images of the file differ in size ({sizes} pixels): {named}; choose one series, or "
            "save each in a separate file"
        )


def _numbered(detections: Sequence[Detection]) -> list[Detection]:
    """Return the detections of a stack with labels that are unique over it."""
    found: list[Detection] = []
    n_labels = 0
    for detection in detections:
        found.append(detection.numbered_after(n_labels))
        n_labels += len(detection.regions)
    return found
