"""Output of one file: TIFF maps and rows of the overview figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_uflow.batch.results import PlaneResult
from napari_uflow.detection.result import Detection
from napari_uflow.evaluation.overview import OverviewRow
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.store.description import description_of
from napari_uflow.store.files import delete, stem_of
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.system.scratch import allocate_map, release_pages, strips
from napari_uflow.wording import counted

__all__ = ["map_paths", "overview_row", "overview_row_of_files", "write_detections"]

# Pixels of the longer side in the overview.
_OVERVIEW_SIDE = 2048


_MAPS = {"heatmap": "score", "log10_nfa": "log10_nfa", "labels": "labels"}
"""Name of the file of each map -> attribute of the detection."""


def map_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Return the files of the maps of an image by their names."""
    return {name: folder / f"{stem}_{name}.tif" for name in _MAPS}


def write_detections(folder: Path, stem: str, planes: Sequence[Plane], detections: Sequence[Detection]) -> None:
    """Write heatmap, NFA map and labels of the planes of one file as TIFF, with labels unique over the planes.

    They keep the axes and the calibration of the planes: pixel size, spacing of slices, interval of frames.

    Parameters
    ----------
    folder : Path
        Existing folder.
    stem : str
        Beginning of the file names.
    planes : sequence of Plane
        Planes of the file, in order.
    detections : sequence of Detection
        Detection of each plane.
    """
    written: list[Path] = []
    try:
        for name, path in map_paths(folder, stem).items():
            _write_map(path, name, planes, detections)
            written.append(path)
    except BaseException:  # no part of a result is left: the tables do not list it
        for path in written:
            delete(path)
        raise


def _write_map(path: Path, name: str, planes: Sequence[Plane], detections: Sequence[Detection]) -> None:
    """Write one map of the planes of a file."""
    first = detections[0]
    axes, shape = _stack_axes(planes)
    maps = [getattr(found, _MAPS[name]) for found in detections]
    # a single plane is not copied: it may be too large for the memory
    stacked = maps[0] if len(maps) == 1 else allocate_map((len(maps), *maps[0].shape), maps[0].dtype)
    n_labels = 0
    for i, found in enumerate(detections if len(maps) > 1 else ()):
        stacked[i] = found.numbered_after(n_labels).labels if name == "labels" else maps[i]
        n_labels += len(found.regions)
        release_pages(stacked, maps[i])
    write_tiff(
        path,
        stacked.reshape(*shape, *maps[0].shape),
        axes + "YX",
        pixel_size=first.pixel_size if first.unit else None,
        unit=first.unit if first.pixel_size else None,
        z_spacing=planes[0].z_spacing if "Z" in planes[0].index else None,
        frame_interval=planes[0].frame_interval if "T" in planes[0].index else None,
        description={"napari_uflow": {**description_of(first), "map": name}},
    )
    release_pages(stacked)


def _stack_axes(planes: Sequence[Plane]) -> tuple[str, tuple[int, ...]]:
    """Return the axes along which the planes are stacked, as far as a TIFF file has names for them."""
    letters = [a for a in planes[0].index if len({plane.index[a] for plane in planes}) > 1]
    shape = tuple(len({plane.index[a] for plane in planes}) for a in letters)
    if set(letters) <= set("TZ") and int(np.prod(shape)) == len(planes):
        return "".join(letters), shape
    return ("", ()) if len(planes) == 1 else ("Z", (len(planes),))


def overview_row(
    plane: Plane, found: Detection, truth: NDArray[np.bool_] | None = None, *, kind: str = ""
) -> OverviewRow:
    """Return a row of the overview figure, with large images reduced to every n-th pixel.

    Parameters
    ----------
    plane : Plane
        Image.
    found : Detection
        Its detection.
    truth : (M, N) array, bool, optional
        True in anomalous pixels.
    kind : str
        Kind of the test image, printed before its name.
    """
    n = len(found.regions)
    step = _step(plane)
    return OverviewRow(
        f"{kind} {found.name}".strip(),
        _shown(plane, step),
        np.nan_to_num(found.score[::step, ::step]),
        found.labels[::step, ::step],
        None if truth is None else truth[::step, ::step],
        _caption(found.lowest_log10_nfa, n),
    )


def overview_row_of_files(
    folder: Path,
    path: Path,
    i: int,
    plane: PlaneResult,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    series: int | str | None = None,
) -> OverviewRow:
    """Return a row of the overview figure for a plane whose maps were written before.

    Parameters
    ----------
    folder : Path
        Folder of the maps.
    path : Path
        Image file.
    i : int
        Number of the plane in it.
    plane : PlaneResult
        Its result.
    channels, axes, series
        As in :func:`~napari_uflow.store.images.read_planes`.

    Raises
    ------
    ImageError
        If a file cannot be read.
    """
    maps = map_paths(folder, stem_of(path))
    image = read_planes(path, channels=channels, axes=axes, series=series)[i]
    heatmap, labels = (read_planes(maps[name])[i] for name in ("heatmap", "labels"))
    step = _step(image)
    return OverviewRow(
        plane.name,
        _shown(image, step),
        _shown(heatmap, step),
        _shown(labels, step).astype(np.int32),
        None,
        _caption(plane.lowest_log10_nfa, plane.n_regions),
    )


def _step(plane: Plane) -> int:
    return max(1, -(-max(plane.shape) // _OVERVIEW_SIDE))


def _caption(lowest_log10_nfa: float, n_regions: int) -> str:
    return f"log10 NFA {lowest_log10_nfa:.1f}, {counted(n_regions, 'region')}"


def _shown(plane: Plane, step: int) -> NDArray[np.float32]:
    """Return every n-th pixel, grey (M, N) or coloured (M, N, 3)."""
    parts = []
    for start, stop in strips(plane.shape):
        strip = plane.read(Window(start, 0, stop - start, plane.shape[1]))
        parts.append(strip[:, -start % step :: step, ::step])
    image = np.concatenate(parts, axis=1)
    return np.nan_to_num(image[0] if len(image) != 3 else np.moveaxis(image, 0, -1))
