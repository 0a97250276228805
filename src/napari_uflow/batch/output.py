"""Output of one file: TIFF maps and rows of the overview figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_uflow.detection.result import Detection
from napari_uflow.evaluation.overview import OverviewRow
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.store.description import description_of
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.system.scratch import allocate_map, release_pages, strips
from napari_uflow.wording import counted

__all__ = ["overview_row", "write_detections"]

# Pixels of the longer side in the overview.
_OVERVIEW_SIDE = 2048


def write_detections(folder: Path, stem: str, planes: Sequence[Plane], detections: Sequence[Detection]) -> None:
    """Write heatmap, NFA map and labels of the planes of one file as TIFF, with labels unique over the planes.

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
    first = detections[0]
    axes, shape = _stack_axes(planes)
    for name, attribute in (("heatmap", "score"), ("log10_nfa", "log10_nfa"), ("labels", "labels")):
        maps = [getattr(found, attribute) for found in detections]
        # a single plane is not copied: it may be too large for the memory
        stacked = maps[0] if len(maps) == 1 else allocate_map((len(maps), *maps[0].shape), maps[0].dtype)
        n_labels = 0
        for i, found in enumerate(detections if len(maps) > 1 else ()):
            stacked[i] = found.numbered_after(n_labels).labels if name == "labels" else maps[i]
            n_labels += len(found.regions)
            release_pages(stacked, maps[i])
        write_tiff(
            folder / f"{stem}_{name}.tif",
            stacked.reshape(*shape, *maps[0].shape),
            axes + "YX",
            pixel_size=first.pixel_size if first.unit else None,
            unit=first.unit if first.pixel_size else None,
            description={"napari_uflow": description_of(first)},
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
