"""Write regions as GeoJSON for QuPath (File > Import objects from file)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_uflow.detection.result import Detection
from napari_uflow.errors import ConfigError
from napari_uflow.store.description import description_of
from napari_uflow.store.files import atomic_path
from napari_uflow.store.provenance import check_replaceable

__all__ = ["outline", "write_geojson"]

Ring = list[list[int]]
"""Corners [x, y] of a closed line; the last one is the first."""

_CLASS = "Anomaly"

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Right, down, left, up in x and y; a step along the border has the pixel of the region on its right."""

_PIXEL_OF_SIDE = ((0, 0), (0, -1), (-1, -1), (-1, 0))
"""Row and column of that pixel relative to the corner where the step begins."""


def write_geojson(
    path: str | os.PathLike[str],
    detections: Iterable[Detection],
    places: Iterable[Mapping[str, int]] | None = None,
    *,
    classification: str = _CLASS,
    overwrite: bool = False,
) -> None:
    """Write the regions of one or many planes to one GeoJSON file, completely or not at all.

    Each region is an annotation whose outline follows the borders of its pixels, in the coordinates of QuPath: pixels
    from the upper left corner of the image, x to the right and y down. Measurements are area, log10 NFA, and peak and
    mean score.

    Parameters
    ----------
    path : path-like
        File to write, usually ``.geojson``; an existing one of this program is replaced.
    detections : iterable of Detection
        Detections whose regions are written.
    places : iterable of mapping, optional
        Position of each plane: "z" and "t" in its stack, "row" and "col" of its first pixel in the image; from 0, the
        default for each.
    classification : str
        Class of all regions.
    overwrite : bool
        Replace a file of another origin, too.

    Raises
    ------
    ConfigError
        If the numbers of places and detections differ.
    OverwriteError
        If the file exists and was not written by napari-uflow.
    UFlowError
        If the file cannot be written.

    References
    ----------
    Butler, H., et al. (2016). The GeoJSON Format. RFC 7946. doi:10.17487/RFC7946
    """
    found = list(detections)
    at: list[Mapping[str, int]] = [{} for _ in found] if places is None else list(places)
    if len(at) != len(found):
        raise ConfigError(f"places must be one for each of the {len(found)} detections, not {len(at)}")
    features = [
        _feature(detection, row, place, classification)
        for detection, place in zip(found, at, strict=True)
        for row in detection.regions.rows()
    ]
    # first, since `store.provenance` knows the files by it
    signature = description_of(found[0]) if found else {}
    collection: dict[str, Any] = {"napari_uflow": signature, "type": "FeatureCollection", "features": features}
    check_replaceable(path, overwrite=overwrite)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(collection, ensure_ascii=False), encoding="utf-8")


def _feature(
    detection: Detection, row: Mapping[str, int | float], place: Mapping[str, int], classification: str
) -> dict[str, Any]:
    first_row, first_col = int(row["first_row"]), int(row["first_col"])
    box = detection.labels[first_row : int(row["stop_row"]), first_col : int(row["stop_col"])]
    place = {name: int(place.get(name, 0)) for name in ("z", "t", "row", "col")}
    polygons = outline(box == row["label"], first_row + place["row"], first_col + place["col"])
    geometry: dict[str, Any] = (
        {"type": "Polygon", "coordinates": polygons[0]}
        if len(polygons) == 1
        else {"type": "MultiPolygon", "coordinates": polygons}
    )
    if place["z"] or place["t"]:  # extension of QuPath; the default is the first plane
        geometry["plane"] = {"c": -1, "z": place["z"], "t": place["t"]}
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "name": f"{detection.name} {row['label']}",
            "classification": {"name": classification},
            "measurements": _measurements(detection, row),
        },
    }


def _measurements(detection: Detection, row: Mapping[str, int | float]) -> dict[str, int | float]:
    values = {
        "Area px^2": row["area_px"],
        f"Area {(detection.unit or '').replace('um', 'µm')}^2": row["area"] if detection.unit else math.nan,
        "log10 NFA": row["log10_nfa"],
        "Peak score": row["peak_score"],
        "Mean score": row["mean_score"],
    }
    if row["is_edited"]:
        values["Edited by hand"] = 1
    # JSON has no NaN, and float32 would be written with insignificant digits
    return {name: float(f"{value:.6g}") for name, value in values.items() if math.isfinite(value)}


def outline(mask: ArrayLike, row: int = 0, col: int = 0) -> list[list[Ring]]:
    """Return the outline of a region along the borders of its pixels.

    Parameters
    ----------
    mask : (M, N) array, bool
        True inside the region.
    row, col : int
        Position of the mask in the image.

    Returns
    -------
    list of polygons
        One per 4-connected part. A polygon is a list of rings: first its outer border, then its holes. A ring is a list
        of corners [x, y] whose last one is the first; no other corner is repeated, and only the first may lie on a
        straight line. Outer borders have a positive area (half the sum of x dy - y dx), holes a negative one. Rings
        touch in corners only.

    Examples
    --------
    >>> import numpy as np
    >>> outline(np.array([[False, False, False], [False, True, True], [False, False, False]]))
    [[[[1, 1], [3, 1], [3, 2], [1, 2], [1, 1]]]]
    """
    inside = np.pad(np.asarray(mask, dtype=bool), 1)
    part, n_parts = ndimage.label(inside)  # parts that touch in a corner only are separate polygons
    sides = _sides(inside)
    polygons: list[list[Ring]] = [[] for _ in range(n_parts)]
    while sides:
        start = next(iter(sides))
        pixel = _PIXEL_OF_SIDE[sides[start][0]]
        number = int(part[start[1] + pixel[0], start[0] + pixel[1]]) - 1
        for corners in _simple_rings(_walk(sides, start)):
            ring = [[x - 1 + col, y - 1 + row] for x, y in corners]
            is_outer = sum(x * v - u * y for (x, y), (u, v) in pairwise(ring)) > 0
            polygons[number].insert(0 if is_outer else len(polygons[number]), ring)
    return polygons


def _sides(inside: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """Return the steps along the border that begin at each corner (x, y)."""
    sides: dict[tuple[int, int], list[int]] = {}
    # neighbours across the side above, right, below and left of a pixel, and the corner where the step begins
    for step, (axis, shift, y, x) in enumerate(((0, 1, 0, 0), (1, -1, 0, 1), (0, -1, 1, 1), (1, 1, 1, 0))):
        rows, cols = np.nonzero(inside & ~np.roll(inside, shift, axis))
        for corner in zip((cols + x).tolist(), (rows + y).tolist(), strict=True):
            sides.setdefault(corner, []).append(step)
    return sides


def _walk(sides: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> list[tuple[int, int]]:
    """Follow the border from a corner back to it and remove its steps; return the corners, closed."""
    corners = [start]
    here, last = start, None
    while here != start or last is None:
        steps = sides[here]
        # at a corner that two pixels share, a right turn stays with the pixel
        step = steps[0] if last is None or len(steps) == 1 else (last + 1) % 4
        steps.remove(step)
        if not steps:
            del sides[here]
        here = (here[0] + _STEPS[step][0], here[1] + _STEPS[step][1])
        last = step
        corners.append(here)
    return corners


def _simple_rings(corners: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Split a closed line at repeated corners: a ring must not touch itself."""
    rings: list[list[tuple[int, int]]] = []
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for corner in corners:
        if corner in place:
            first = place[corner]
            rings.append(_without_straight([*path[first:], corner]))
            for gone in path[first + 1 :]:
                del place[gone]
            del path[first + 1 :]
        else:
            place[corner] = len(path)
            path.append(corner)
    return rings


def _without_straight(ring: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Remove corners on straight lines; the ends are kept."""
    kept = [
        here
        for before, here, after in zip(ring, ring[1:], ring[2:], strict=False)
        if (here[0] - before[0], here[1] - before[1]) != (after[0] - here[0], after[1] - here[1])
    ]
    return [ring[0], *kept, ring[-1]]
