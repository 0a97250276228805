"""Many images in, files out."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_stack_steps
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.detection.result import Detection
from napari_uflow.errors import ConfigError, ImageError, Stopped, UFlowError
from napari_uflow.evaluation.figures import OverviewRow, overview, save_figure
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import FINISH, Message, Progress, Steps, or_stop, within
from napari_uflow.store.description import description_of
from napari_uflow.store.files import atomic_path
from napari_uflow.store.images import read_planes
from napari_uflow.store.regions import write_regions
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.system.devices import choose_device
from napari_uflow.system.scratch import allocate_map, let_go, strips
from napari_uflow.wording import counted

__all__ = [
    "PHASE",
    "BatchSummary",
    "Collected",
    "FileResult",
    "detect_file_steps",
    "detect_files_steps",
    "overview_row",
    "prepare",
    "write_detections",
]

PHASE = "Looking at files"
"""The phase that counts files."""

# The overview shows the strangest planes only, each no larger than this many pixels a side.
_N_OVERVIEW = 8
_OVERVIEW_SIDE = 2048


@dataclass(frozen=True)
class BatchSummary:
    """What became of a batch.

    Attributes
    ----------
    done : tuple of Path
        Files that were looked at.
    failed : tuple of (Path, str)
        Files that could not be, and why.
    n_regions : int
        Anomalous regions found in all.
    n_regions_by_file : tuple of int
        Those found in each file of `done`.
    n_anomalous_planes, n_planes : int
        Planes with at least one region, and planes in all.
    was_stopped : bool
        True where the user stopped the batch before its end.
    guarantees : tuple of Guarantee
        Distinct guarantees of the planes; stacks of different sizes differ if the planes share the false alarms.
    left_out : tuple of Path
        Files that were not looked at, or not to the end, because it was stopped.
    """

    done: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    n_regions: int
    n_regions_by_file: tuple[int, ...]
    n_anomalous_planes: int
    n_planes: int
    was_stopped: bool
    guarantees: tuple[Guarantee, ...]
    left_out: tuple[Path, ...] = ()


def detect_files_steps(
    model: TrainedModel,
    paths: Sequence[Path],
    output: str | Path,
    config: DetectionConfig,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    device: str = "auto",
    weights: str | Path | None = None,
) -> Steps[BatchSummary]:
    """Detect in files and write the results to a folder.

    For an image ``NAME`` it writes ``NAME_heatmap.tif`` (float32, 0 to 1), ``NAME_log10_nfa.tif`` (float32) and
    ``NAME_labels.tif`` (0 is background) as calibrated TIFF with the axes of the image, and for all of them
    ``regions.csv``, ``summary.csv`` (one row per file) and ``overview.png``. A file that fails is named in the summary;
    the rest goes on.

    Parameters
    ----------
    model : TrainedModel
        A trained model.
    paths : sequence of Path
        Files of images or stacks.
    output : path
        Folder to write to; made if it is missing.
    config : DetectionConfig
        How to detect.
    channels, axes
        As in :func:`~napari_uflow.store.images.read_planes`.
    device, weights
        As in :func:`~napari_uflow.evaluation.evaluate.evaluate_steps`.

    Yields
    ------
    Message or Progress
        Where FINISH is sent, the files done so far are kept and the summary says so.

    Returns
    -------
    BatchSummary

    Raises
    ------
    ConfigError
        If two files would write to the same names.
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
            steps = detect_file_steps(model, network, path, output, config, channels=channels, axes=axes)
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
    """Check the names of files and make the folder for the results; raise as `detect_files_steps` does."""
    paths = [Path(path) for path in paths]
    _check_names(paths)
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UFlowError(
            f"the folder '{output}' cannot be made ({error.strerror or error}); choose another place for the results"
        ) from error
    return paths, output


@dataclass(frozen=True, eq=False)
class FileResult:
    """What became of one file; small enough to be sent from another machine.

    Attributes
    ----------
    path : Path
        The file.
    tables : tuple of Detection
        One for each plane, with its regions but without its maps; empty where the file failed.
    rows : tuple of (float, OverviewRow)
        log10 NFA and image of each plane, for the overview.
    lowest_log10_nfa : float
        Of the strangest region in all planes; NaN where the file failed.
    reason : str
        Why it failed; "" where it did not.
    """

    path: Path
    tables: tuple[Detection, ...] = ()
    rows: tuple[tuple[float, OverviewRow], ...] = ()
    lowest_log10_nfa: float = math.nan
    reason: str = ""


def detect_file_steps(
    model: TrainedModel,
    network: UFlow,
    path: Path,
    output: Path,
    config: DetectionConfig,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
) -> Steps[FileResult]:
    """Detect in one file and write its maps; a file that fails is a result, too.

    Parameters
    ----------
    model, config, channels, axes
        As in `detect_files_steps`.
    network : UFlow
        ``model.network(...)``.
    path : Path
        The file.
    output : Path
        An existing folder.

    Raises
    ------
    Stopped
        If it was asked to finish.
    """
    try:
        planes = read_planes(path, channels=channels, axes=axes)
        _check_sizes(planes)
        detections = yield from detect_stack_steps(model, planes, config, network=network)
        yield from or_stop(Progress("Writing", 0, 1))  # what has begun to be written is written to its end
        write_detections(output, path.stem.removesuffix(".ome"), planes, detections)
    except Stopped:
        raise
    except (UFlowError, MemoryError) as error:
        return FileResult(path, reason=str(error) or "not enough memory: choose a smaller tile")
    lowest = [found.lowest_log10_nfa for found in detections]
    strangest = np.argsort(lowest, kind="stable")[:_N_OVERVIEW]
    rows = tuple((lowest[i], overview_row(planes[i], detections[i])) for i in strangest)
    empty = np.zeros((0, 0), dtype=np.float32)
    no_labels = empty.astype(np.int32)
    tables = [replace(d, score=empty, log10_nfa=empty, labels=no_labels, energies=()) for d in detections]
    return FileResult(path, tuple(_numbered(tables)), rows, min(lowest))


class Collected:
    """What became of the files so far, in any order, and the tables that are written of all of them."""

    def __init__(self) -> None:
        self._results: list[FileResult] = []
        self._rows: list[tuple[float, OverviewRow]] = []

    def add(self, result: FileResult) -> None:
        """Add a file; of the overview the strangest planes are kept."""
        self._rows = sorted([*self._rows, *result.rows], key=lambda row: row[0])[:_N_OVERVIEW]
        self._results.append(replace(result, rows=()))

    def write(self, output: Path, *, was_stopped: bool, order: Sequence[Path]) -> BatchSummary:
        """Write ``summary.csv``, ``regions.csv`` and ``overview.png`` and say how it went.

        Parameters
        ----------
        output : Path
            An existing folder.
        was_stopped : bool
            Whether the user stopped it.
        order : sequence of Path
            All files, in the order in which they are listed; those that were not added have been left out.
        """
        place = {path: i for i, path in enumerate(order)}
        results = sorted(self._results, key=lambda result: place[result.path])
        added = {result.path for result in results}
        left_out = [path for path in order if path not in added]
        done = [result for result in results if not result.reason]
        if results:
            rows = [_summary_row(result) for result in results]
            rows += [(path.name, "not looked at", "", "", "", "", "stopped before its end") for path in left_out]
            _write_summary(output / "summary.csv", rows)
        tables = [table for result in done for table in result.tables]
        if done:
            write_regions(output / "regions.csv", tables)
            figure = overview([row for _, row in self._rows], score_limits=(0, 1), title="Strangest images first")
            save_figure(figure, output / "overview.png")
        n_regions = tuple(sum(len(table.regions) for table in result.tables) for result in done)
        return BatchSummary(
            tuple(result.path for result in done),
            tuple((result.path, result.reason) for result in results if result.reason),
            sum(n_regions),
            n_regions,
            sum(len(table.regions) > 0 for table in tables),
            len(tables),
            was_stopped,
            tuple(dict.fromkeys(table.guarantee for table in tables)),
            tuple(left_out),
        )


def _summary_row(result: FileResult) -> tuple[Any, ...]:
    if result.reason:
        return (result.path.name, "failed", "", "", "", "", result.reason)
    counts = [len(table.regions) for table in result.tables]
    n_anomalous = sum(count > 0 for count in counts)
    return (result.path.name, "done", len(counts), n_anomalous, sum(counts), f"{result.lowest_log10_nfa:.6g}", "")


_SUMMARY = ("file", "outcome", "n_planes", "n_anomalous_planes", "n_regions", "lowest_log10_nfa", "reason")


def _write_summary(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_SUMMARY, *rows])


def _check_names(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        stem = path.stem.removesuffix(".ome")
        if stem in seen:
            raise ConfigError(
                f"'{seen[stem]}' and '{path}' would be written to the same files; detect in one folder at a time"
            )
        seen[stem] = path


def _check_sizes(planes: Sequence[Plane]) -> None:
    shapes = sorted({plane.shape for plane in planes})
    if len(shapes) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in shapes)
        raise ImageError(f"the file has images of different sizes ({sizes} pixels); save each to a file of its own")


def _numbered(detections: Sequence[Detection]) -> list[Detection]:
    """Return the detections of a stack with labels that are unique over it."""
    found: list[Detection] = []
    n_labels = 0
    for detection in detections:
        found.append(detection.numbered_after(n_labels))
        n_labels += len(detection.regions)
    return found


def write_detections(folder: Path, stem: str, planes: Sequence[Plane], detections: Sequence[Detection]) -> None:
    """Write heatmap, NFA map and labels of the planes of one file as TIFF; labels are unique over the planes.

    Parameters
    ----------
    folder : Path
        An existing folder.
    stem : str
        Beginning of the files' names.
    planes : sequence of Plane
        The planes of the file, in their order.
    detections : sequence of Detection
        What was found in each.
    """
    first = detections[0]
    axes, shape = _stack_axes(planes)
    for name, attribute in (("heatmap", "score"), ("log10_nfa", "log10_nfa"), ("labels", "labels")):
        maps = [getattr(found, attribute) for found in detections]
        # a single plane as it is: it may be too large for a copy in memory
        stacked = maps[0] if len(maps) == 1 else allocate_map((len(maps), *maps[0].shape), maps[0].dtype)
        n_labels = 0
        for i, found in enumerate(detections if len(maps) > 1 else ()):
            stacked[i] = found.numbered_after(n_labels).labels if name == "labels" else maps[i]
            n_labels += len(found.regions)
            let_go(stacked, maps[i])
        write_tiff(
            folder / f"{stem}_{name}.tif",
            stacked.reshape(*shape, *maps[0].shape),
            axes + "YX",
            pixel_size=first.pixel_size if first.unit else None,
            unit=first.unit if first.pixel_size else None,
            description={"napari_uflow": description_of(first)},
        )
        let_go(stacked)


def _stack_axes(planes: Sequence[Plane]) -> tuple[str, tuple[int, ...]]:
    """Return the axes over which the planes are stacked, as far as a TIFF file can name them."""
    letters = [a for a in planes[0].index if len({plane.index[a] for plane in planes}) > 1]
    shape = tuple(len({plane.index[a] for plane in planes}) for a in letters)
    if set(letters) <= set("TZ") and int(np.prod(shape)) == len(planes):
        return "".join(letters), shape
    return ("", ()) if len(planes) == 1 else ("Z", (len(planes),))


def overview_row(
    plane: Plane, found: Detection, truth: NDArray[np.bool_] | None = None, *, kind: str = ""
) -> OverviewRow:
    """Return a row of the overview figure; large images are thinned out."""
    step = max(1, -(-max(plane.shape) // _OVERVIEW_SIDE))
    parts = []
    for start, stop in strips(plane.shape):
        strip = plane.read(Window(start, 0, stop - start, plane.shape[1]))
        parts.append(strip[:, -start % step :: step, ::step])
    image = np.concatenate(parts, axis=1)
    image = np.nan_to_num(image[0] if len(image) != 3 else np.moveaxis(image, 0, -1))
    n = len(found.regions)
    caption = f"log10 NFA {found.lowest_log10_nfa:.1f}, {counted(n, 'region')}"
    return OverviewRow(
        f"{kind} {found.name}".strip(),
        image,
        np.nan_to_num(found.score[::step, ::step]),
        found.labels[::step, ::step],
        None if truth is None else truth[::step, ::step],
        caption,
    )
