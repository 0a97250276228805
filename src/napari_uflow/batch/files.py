"""Detection in many files: images in, TIFF, CSV and an overview out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_uflow.batch.journal import task_of
from napari_uflow.batch.output import overview_row, write_detections
from napari_uflow.batch.results import (
    BatchSummary,
    FileResult,
    PlaneResult,
    may_pass,
    reason_of,
    warnings_of,
    with_next_step,
)
from napari_uflow.batch.run import N_OVERVIEW, BatchRun, images_of, locked
from napari_uflow.config import DetectionConfig
from napari_uflow.detection.result import Detection
from napari_uflow.detection.stack import detect_stack_steps
from napari_uflow.errors import ImageError, Stopped
from napari_uflow.evaluation.drift import DriftWatch
from napari_uflow.evaluation.overview import OverviewRow
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import FINISH, Message, Progress, Steps, or_stop, within
from napari_uflow.store.files import made_folder, stem_of
from napari_uflow.store.images import read_planes
from napari_uflow.store.provenance import left_out_text
from napari_uflow.store.regions import region_lines
from napari_uflow.system.devices import choose_device

__all__ = ["PHASE", "detect_file_steps", "detect_files_steps", "results_left_out"]

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
    resume: bool = False,
    overwrite: bool = False,
    model_path: str | Path | None = None,
) -> Steps[BatchSummary]:
    """Detect in files and write the results to a folder.

    For an image ``NAME`` it writes ``NAME_heatmap.tif`` (float32), ``NAME_log10_nfa.tif`` (float32) and
    ``NAME_labels.tif`` (0 is background) as calibrated TIFF with the axes of the image, and for all images
    ``regions.csv``, ``summary.csv`` (one row per file) and ``overview.png``. A failed file is listed in the summary and
    does not stop the batch. The tables are written as files finish; until the batch has ended, the folder has a file
    ``unfinished.jsonl``. Results of an earlier batch of the same images are replaced.

    Parameters
    ----------
    model : TrainedModel
        Trained model.
    paths : sequence of Path
        Files of images or stacks; results of an earlier detection among them are left out.
    output : path
        Folder to write to; created if it does not exist.
    config : DetectionConfig
        Parameters of the detection.
    channels, axes, series
        As in :func:`~napari_uflow.store.images.read_planes`.
    device, weights
        As in :func:`~napari_uflow.evaluation.evaluate.evaluate_steps`.
    resume : bool
        Continue the batch that was killed or stopped in this folder: its finished images are kept, as far as their
        files did not change.
    overwrite : bool
        Replace files in the folder that were not written by a detection. The images themselves are never replaced.
    model_path : path, optional
        File of the model: the images are added to the drift log beside it, and if they are no longer like the held-out
        ones, the guarantee is withdrawn. Without it there is no log.

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
        If two files would write to the same names, a table would replace a file of another origin, the folder is part
        of an image, or the batch to continue has another model or other parameters.
    UFlowError
        If the folder cannot be created or written to, or is in use by another batch.
    """
    output = Path(output)
    paths, left_out = images_of(paths, output)
    was_stopped = False
    with made_folder(output), locked(output):
        network = model.network(choose_device(device), weights)
        watch = None if model_path is None else DriftWatch(model, model_path)
        options: dict[str, Any] = {"channels": channels, "axes": axes, "series": series}
        task = task_of(model, config, options)
        run = BatchRun(output, paths, task, config, options, resume=resume, overwrite=overwrite)
        yield from results_left_out(left_out)
        yield from run.begin()
        for i, path in enumerate(paths):
            progress = Progress(PHASE, i, len(paths))
            answer = yield progress
            if answer is FINISH:
                was_stopped = True
                break
            if run.is_finished(path):
                continue
            try:
                steps = detect_file_steps(model, network, path, output, config, watch=watch, **options)
                result = yield from steps if len(paths) == 1 else within(steps, progress)
            except Stopped:
                was_stopped = True
                break
            yield from run.add(result)
        else:
            yield Progress(PHASE, len(paths), len(paths))
        return with_next_step((yield from run.finish(was_stopped=was_stopped)), model)


def results_left_out(paths: Sequence[Path]) -> Steps[None]:
    """Say that files are results of a detection and no images."""
    if paths:
        yield Message(left_out_text(paths), warning=True)


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
    watch: DriftWatch | None = None,
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
    watch : DriftWatch, optional
        Gets the detections.

    Raises
    ------
    Stopped
        If the job was asked to finish.
    """
    try:
        planes = read_planes(path, channels=channels, axes=axes, series=series)
        _check_sizes(planes)
        detections = yield from detect_stack_steps(model, planes, config, network=network)
        if watch is not None:
            detections, messages = watch.observe(planes, detections)
            for message in messages:
                yield from or_stop(message)
        yield from or_stop(Progress("Writing", 0, 1))  # once begun, writing is completed
        write_detections(output, stem_of(path), planes, detections)
    except Stopped:
        raise
    except Exception as error:  # whatever an image raises, the others go on
        return FileResult(path=path, reason=reason_of(error, path), may_pass=may_pass(error))
    of_planes = [PlaneResult.of(found) for found in detections]
    warnings = warnings_of(of_planes)
    try:
        rows = _overview_rows(planes, detections, of_planes)
    except Exception as error:  # such as a file that vanished meanwhile: its maps are written
        rows = ()
        warnings.append(f"not in the overview: {reason_of(error, path)}")
    return FileResult(
        path=path,
        planes=tuple(of_planes),
        regions="".join(map(region_lines, _numbered(detections))),
        rows=rows,
        warnings=tuple(warnings),
    )


def _overview_rows(
    planes: Sequence[Plane], detections: Sequence[Detection], results: Sequence[PlaneResult]
) -> tuple[tuple[float, OverviewRow], ...]:
    lowest = [result.lowest_log10_nfa for result in results]
    most_anomalous = np.argsort(lowest, kind="stable")[:N_OVERVIEW]
    return tuple((lowest[i], overview_row(planes[i], detections[i])) for i in most_anomalous)


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
