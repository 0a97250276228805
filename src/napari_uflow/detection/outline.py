"""Outlines of regions at the pixel, guided by the image."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_uflow.detection.contrast import FEWEST_AROUND, find_contrast
from napari_uflow.detection.pieces import Pieces, cut_into_pieces
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.nfa.compiled import compiled
from napari_uflow.nfa.growth import GrownRegions
from napari_uflow.progress import Progress, Steps, or_stop
from napari_uflow.system.scratch import allocate_map, release_pages, strips

__all__ = ["OutlineCanvas", "outline_steps"]

# Pixels around a region that show its normal surroundings: between these two distances, in positions. The evidence of a
# position depends on a field of view much wider than the position, so the nearest ones are left out.
_NEAREST_AROUND = 1.0
_FARTHEST_AROUND = 5.0
# Largest height and width of a piece, in pixels and in positions.
_PIECE_PIXELS = 768
_PIECE_POSITIONS = 64
# The image does not decide if the largest part of the found pixels is no larger than this fraction of the positions.
_LEAST_FOUND = 0.01
# A part of the found pixels is dropped if it is smaller than this fraction of the largest one ...
_LEAST_PART = 0.1
# ... or if the way to the others, through pixels that do not differ, is longer than this many square roots of its area.
_LONGEST_LINK = 1.0
_PIXELS_BETWEEN_RELEASES = 2**24


def outline_steps(
    grown: GrownRegions,
    evidence: NDArray[np.floating],
    plane: Plane,
    stride: float,
    *,
    background: float,
    progress: Progress,
) -> Steps[NDArray[np.float32]]:
    """Draw regions on the image with outlines at the pixel, step by step.

    Parameters
    ----------
    grown, evidence, plane, stride, background
        As for :class:`OutlineCanvas`.
    progress : Progress
        Event to yield between pieces of regions, with the drawn fraction as its `part`.

    Returns
    -------
    (M, N) array, float32
        log10 NFA of every pixel.

    Raises
    ------
    ValueError
        As :class:`OutlineCanvas`.
    Stopped
        If the job was asked to finish.
    """
    canvas = OutlineCanvas(grown, evidence, plane, stride, background=background)
    for start, stop in strips(plane.shape):
        canvas.clear(start, stop)
        yield from or_stop(progress)
    for part in canvas.draw():
        yield from or_stop(replace(progress, part=part))
    return canvas.image


class OutlineCanvas:
    """Image of the log10 NFA of regions, drawn piece by piece.

    Position (i, j) covers rows i * stride to (i + 1) * stride of the image, and likewise columns; a pixel belongs to
    the position of its centre. Pixels of a region are those that differ in brightness from the normal pixels around it.
    If the image does not decide, they are those whose interpolated evidence reaches the level of the region's growth. A
    region may extend beyond its positions by one stride, unless another region is there.

    As on the grid, the number of connected parts at or below a threshold is never higher than that of the original
    regions: every piece of a region is connected, and pieces that must remain together are joined by a thin path where
    the found pixels do not touch. Every region that has a position has a pixel.

    Parameters
    ----------
    grown : GrownRegions
        Regions after their growth; log10 NFA below `background`.
    evidence : (m, n) array, float
        Map that the regions are of; NaN in positions that were not measured, whose pixels are not added to any region.
    plane : Plane
        Image (M, N), read in windows of limited size around the regions.
    stride : float
        Image pixels per position, at least 1.
    background : float
        Value of pixels in no region.
    out : (M, N) array, float32, optional
        Array to draw into; by default a new one, disk-backed if it is large.

    Attributes
    ----------
    image : (M, N) array, float32
        log10 NFA, once all rows were cleared and all pieces drawn.

    Raises
    ------
    ValueError
        If the shapes or the stride do not fit, or a log10 NFA is not below `background`.
    """

    def __init__(
        self,
        grown: GrownRegions,
        evidence: NDArray[np.floating],
        plane: Plane,
        stride: float,
        *,
        background: float,
        out: NDArray[np.float32] | None = None,
    ) -> None:
        if evidence.shape != grown.labels.shape:
            raise ValueError(f"evidence and labels must have one shape, got {evidence.shape} and {grown.labels.shape}")
        if not stride >= 1:
            raise ValueError(f"stride must be at least 1 pixel, got {stride}")
        values = np.maximum(grown.log10_nfa, np.finfo(np.float32).min).astype(np.float32)
        if not (values < np.float32(background)).all():
            raise ValueError(f"log10 NFA must be below that of the background, {background}")
        self._axes = tuple(_Axis(*sizes, stride) for sizes in zip(evidence.shape, plane.shape, strict=True))
        self._grown, self._evidence, self._plane, self._stride = grown, evidence, plane, stride
        self._values, self._background = values, np.float32(background)
        span = max(1, min(_PIECE_POSITIONS, int(_PIECE_PIXELS / stride)))
        self._pieces = cut_into_pieces(grown, evidence, span)
        self._partners = _partners(self._pieces)
        self.image = allocate_map(plane.shape, np.float32) if out is None else out

    def clear(self, start: int, stop: int) -> None:
        """Set rows `start` to `stop` - 1 to the background, before any piece is drawn."""
        self.image[start:stop] = self._background
        release_pages(self.image)

    def draw(self) -> Iterator[float]:
        """Draw one piece after another, the most significant first, and yield the drawn fraction, 0 to 1."""
        n_pieces, n_pixels = len(self._pieces.region), 0
        for piece in range(1, n_pieces + 1):
            n_pixels += self._draw_piece(piece)
            if n_pixels > _PIXELS_BETWEEN_RELEASES:
                release_pages(self.image)
                n_pixels = 0
            yield piece / n_pieces
        release_pages(self.image)

    def _draw_piece(self, piece: int) -> int:
        """Draw a piece and return the number of pixels of its window."""
        view = self._view(piece)
        drawn = self.image[view.window.row : view.window.stop_row, view.window.col : view.window.stop_col]
        region = int(self._pieces.region[piece - 1])
        own = view.pieces == piece
        is_free = (view.pieces == 0) & view.is_measured & (drawn == self._background)
        allowed = own | (_within(own, self._stride) & is_free)
        found, deviation = self._found(view, own, allowed, region)
        cost = _cost(deviation)
        shape = _connected_shape(found, own, allowed, cost, view.evidence)
        for partner in self._partners.get(piece, ()):
            touched = view.pieces == partner
            if partner < piece:  # already drawn
                touched &= drawn != self._background
            _link(shape, own, cost, _touching_pixels(own, touched))
        drawn[shape] = self._values[region - 1]
        return view.pieces.size

    def _found(
        self, view: _View, own: NDArray[np.bool_], allowed: NDArray[np.bool_], region: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Return the pixels that the image, or else the evidence, shows to be of the piece, and their deviation."""
        is_region = view.pieces > 0
        free = view.is_measured & _within(own, _FARTHEST_AROUND * self._stride) & ~is_region
        around = free & ~_within(is_region, _NEAREST_AROUND * self._stride)
        contrast = None
        if np.count_nonzero(around) >= FEWEST_AROUND:  # otherwise nothing is read
            contrast = find_contrast(self._plane.read(view.window), own, around)
        if contrast is not None:
            found = ndimage.binary_closing(np.pad(contrast.differs & allowed, 2), np.ones((3, 3)))[2:-2, 2:-2]
            found = ndimage.binary_fill_holes(found & allowed) & allowed
            if _largest_part(found, own) > _LEAST_FOUND * np.count_nonzero(own):
                return found, contrast.deviation
        core = np.min(view.evidence, where=view.is_core & own, initial=np.inf)
        level = min(float(self._grown.levels[region - 1]), float(core))
        return allowed & (view.evidence >= level), np.zeros(own.shape, dtype=np.float32)

    def _view(self, piece: int) -> _View:
        """Return the surroundings of a piece at the pixel."""
        box = self._pieces.boxes[piece - 1]
        margin = math.ceil(_FARTHEST_AROUND * self._stride) + 1
        bounds = [axis.pixels(box[i], box[i + 2], margin) for i, axis in enumerate(self._axes)]
        (top, bottom), (left, right) = bounds
        at = np.ix_(self._axes[0].position[top:bottom], self._axes[1].position[left:right])
        evidence, is_measured = _interpolated(self._evidence, self._stride, bounds)
        pieces = self._pieces.labels[at]
        is_core = self._grown.cores[at] > 0
        window = Window(top, left, bottom - top, right - left)
        return _View(window, pieces, is_core, evidence, is_measured & ~np.isnan(self._evidence[at]))


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    window: Window
    pieces: NDArray[np.int32]
    is_core: NDArray[np.bool_]
    evidence: NDArray[np.float32]
    is_measured: NDArray[np.bool_]


class _Axis:
    """Positions and pixels along one axis.

    `position` is the position of each pixel. Every position has a pixel: at the end of the axis, where a position may
    contain no pixel's centre, it gets the last pixel.
    """

    def __init__(self, n_positions: int, n_pixels: int, stride: float) -> None:
        if n_positions > n_pixels or n_positions * stride < n_pixels - 0.5:
            raise ValueError(f"{n_positions} positions of {stride} pixels do not fit {n_pixels} pixels")
        pixel = np.arange(n_pixels)
        centre = np.minimum(((pixel + 0.5) / stride).astype(np.int64), n_positions - 1)
        self.position = np.maximum(centre, n_positions - n_pixels + pixel)

    def pixels(self, first: int, stop: int, margin: int) -> tuple[int, int]:
        """Return first and stop pixel of positions, with a margin as far as the image extends."""
        start, end = np.searchsorted(self.position, (first, stop))
        return max(int(start) - margin, 0), min(int(end) + margin, self.position.size)


def _interpolated(
    evidence: NDArray[np.floating], stride: float, bounds: list[tuple[int, int]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the evidence of pixels, bilinear between measured positions, and which pixels have one."""
    places = []
    for n, (start, stop) in zip(evidence.shape, bounds, strict=True):
        at = np.clip((np.arange(start, stop) + 0.5) / stride - 0.5, 0, n - 1)
        low = np.minimum(at.astype(np.int64), max(n - 2, 0))
        places.append((low, np.minimum(low + 1, n - 1), at - low))
    (top, bottom, down), (left, right, across) = places
    total, weight = np.zeros((2, len(down), len(across)))
    for rows, row_weight in ((top, 1 - down), (bottom, down)):
        for cols, col_weight in ((left, 1 - across), (right, across)):
            values = evidence[np.ix_(rows, cols)]
            share = np.where(np.isnan(values), 0.0, row_weight[:, None] * col_weight)
            weight += share
            total += share * np.where(share > 0, values, 0.0)
    is_measured = weight > 0
    mean = np.divide(total, weight, out=np.full(total.shape, -np.inf), where=is_measured)
    return mean.astype(np.float32), is_measured


def _within(mask: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """Return the pixels at most a number of rows and of columns away from those of a mask."""
    size = 2 * int(distance) + 1
    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), size, mode="constant")) > 0


def _partners(pieces: Pieces) -> dict[int, list[int]]:
    partners: dict[int, list[int]] = {}
    for a, b in pieces.links.tolist():
        partners.setdefault(a, []).append(b)
        partners.setdefault(b, []).append(a)
    return partners


def _cost(deviation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cost of a path through each pixel, 1 or less: paths follow what differs from the surroundings."""
    return np.asarray(1 / (1 + np.square(deviation / 2)), dtype=np.float32) + np.float32(0.01)


def _connected_shape(
    found: NDArray[np.bool_],
    own: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    cost: NDArray[np.float32],
    evidence: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Return a connected set of pixels that consists of the larger parts of `found` and paths between them."""
    parts, n = ndimage.label(found, np.ones((3, 3)))
    area = np.bincount(parts.ravel(), minlength=n + 1)
    area[np.setdiff1d(np.arange(n + 1), parts[own & found])] = 0
    area[0] = 0
    shape = np.zeros(own.shape, dtype=np.bool_)
    if not area.any():
        shape.flat[np.argmax(np.where(own, evidence, -np.inf))] = True
        if not (shape & own).any():  # no evidence was measured
            shape[:] = False
            shape.flat[np.argmax(own)] = True
        return shape
    largest = int(np.argmax(area))
    shape |= parts == largest
    others = np.where(area >= _LEAST_PART * area[largest], area, 0)
    others[largest] = 0
    if others.any():
        numbers = np.zeros(n + 1, dtype=np.int32)
        numbers[others > 0] = np.arange(1, np.count_nonzero(others) + 1)
        _join(shape, allowed, cost, numbers[parts], _LONGEST_LINK * np.sqrt(others[others > 0]), True)
    return shape


def _largest_part(found: NDArray[np.bool_], own: NDArray[np.bool_]) -> int:
    """Return the number of pixels of the largest part of `found` that has a pixel in `own`."""
    parts, _ = ndimage.label(found, np.ones((3, 3)))
    return int(np.bincount(parts.ravel())[parts[found & own]].max(initial=0))


def _link(shape: NDArray[np.bool_], own: NDArray[np.bool_], cost: NDArray[np.float32], goal: NDArray[np.bool_]) -> None:
    """Extend a shape by a path to the nearest pixel of a goal, unless it contains one."""
    if not (shape & goal).any():
        _join(shape, own, cost, goal.astype(np.int32), np.array([np.inf]), False)


@compiled
def _join(
    shape: NDArray[np.bool_],
    passable: NDArray[np.bool_],
    cost: NDArray[np.float32],
    parts: NDArray[np.int32],
    longest: NDArray[np.float64],
    whole: bool,
) -> None:
    """Add parts to a shape, the nearest first, with the cheapest paths to them.

    A part beyond its `longest` cost of a path is left out. With `whole` all of a part is added, else the pixel where
    the path meets it.
    """
    n_rows, n_cols = shape.shape
    n_left = longest.size
    limit = longest.max()
    is_done = np.zeros(n_left + 1, dtype=np.bool_)
    distance = np.full(shape.shape, np.inf)
    origin = np.full(shape.shape, -1, dtype=np.int64)
    heap = [(0.0, np.int64(-1))]
    heap.pop()
    for row in range(n_rows):
        for col in range(n_cols):
            if shape[row, col]:
                distance[row, col] = 0.0
                heap.append((0.0, np.int64(row * n_cols + col)))
    while len(heap) > 0 and n_left > 0:
        length, place = heapq.heappop(heap)
        if length > limit:
            break
        row = place // n_cols
        col = place - row * n_cols
        if length > distance[row, col]:
            continue
        part = parts[row, col]
        if part > 0 and not is_done[part] and length <= longest[part - 1]:
            is_done[part] = True
            n_left -= 1
            step = place
            while step >= 0 and not shape[step // n_cols, step % n_cols]:
                shape[step // n_cols, step % n_cols] = True
                if distance[step // n_cols, step % n_cols] > 0.0:
                    distance[step // n_cols, step % n_cols] = 0.0
                    heapq.heappush(heap, (0.0, step))
                step = origin[step // n_cols, step % n_cols]
            if whole:
                for i in range(n_rows):
                    for j in range(n_cols):
                        if parts[i, j] == part and not shape[i, j]:
                            shape[i, j] = True
                            distance[i, j] = 0.0
                            heapq.heappush(heap, (0.0, np.int64(i * n_cols + j)))
            length = 0.0
        for i in range(max(row - 1, 0), min(row + 2, n_rows)):
            for j in range(max(col - 1, 0), min(col + 2, n_cols)):
                if not passable[i, j] or (i == row and j == col):
                    continue
                further = length + cost[i, j] * (1.0 if i == row or j == col else 1.4142135)
                if further < distance[i, j]:
                    distance[i, j] = further
                    origin[i, j] = place
                    heapq.heappush(heap, (further, np.int64(i * n_cols + j)))


@compiled
def _touching_pixels(own: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of `own` that touch, by sides or corners, one of `other`."""
    n_rows, n_cols = own.shape
    touching = np.zeros(own.shape, dtype=np.bool_)
    for row in range(n_rows):
        for col in range(n_cols):
            if own[row, col]:
                for i in range(max(row - 1, 0), min(row + 2, n_rows)):
                    for j in range(max(col - 1, 0), min(col + 2, n_cols)):
                        if other[i, j]:
                            touching[row, col] = True
    return touching
