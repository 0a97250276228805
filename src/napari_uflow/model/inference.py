"""What the network says about an image, tile by tile: one small map per level for each kind of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.image.grid import Mosaic, Tile, TileGrid, Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.model.border import Border
from napari_uflow.model.energy import bounded_energy, energy, log_variance
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Pieces, Progress, Steps, in_pieces, or_stop

__all__ = ["ScoreMaps", "all_in_cells", "score_steps"]

Maps = tuple[NDArray[np.float32], ...]

# What stands for a value that overflowed: of energies, bounded energies (of the largest latent that they know), log_variances
# (more than any flow of float32 can expect) and counts.
_LARGEST = (float(np.finfo(np.float32).max), 70.0, 200.0, 0.0)


@dataclass(frozen=True, eq=False)
class ScoreMaps:
    """Maps of one image, each kind a tuple of (ceil(M / stride), ceil(N / stride)) arrays, float32, finest first.

    NaN where not measured.

    Attributes
    ----------
    energies : tuple of arrays
        Mean of the squared latents.
    bounded : tuple of arrays
        Mean of log(1 + z squared).
    log_variances : tuple of arrays
        Logarithm of the variance that the flow expects.
    candidates : tuple of arrays
        Number of channels whose squared latent is at or above a threshold; empty where none was given.
    strides : tuple of int
        Pixels per position of each level.
    outside : float
        Part of the measured pixels, 0 to 1, that are darker or brighter than the model's intensity range, in the
        channel that has most of them.
    frame : Window or None
        The image in the maps' pixel coordinates; None for a network without a treatment of the border.
    border : Border
        Treatment of the image's border.
    """

    energies: Maps
    bounded: Maps
    log_variances: Maps
    candidates: Maps
    strides: tuple[int, ...]
    outside: float
    frame: Window | None = None
    border: Border = Border()

    @property
    def tested(self) -> Maps:
        """The maps that the calibrated region test looks at."""
        return self.bounded + self.log_variances

    @property
    def tested_strides(self) -> tuple[int, ...]:
        """Stride of each of these maps."""
        return self.strides * 2

    def only(self, is_normal: NDArray[np.bool_]) -> ScoreMaps:
        """Return the same with NaN in every position that is not normal throughout.

        Parameters
        ----------
        is_normal : (M, N) array, bool
        """

        def masked(maps: Maps) -> Maps:
            kept = []
            for values, stride in zip(maps, self.strides, strict=False):
                size = (values.shape[0] * stride, values.shape[1] * stride)
                missing = [(0, n - m) for n, m in zip(size, is_normal.shape, strict=True)]
                inside = all_in_cells(np.pad(is_normal, missing, mode="edge"), stride)
                inside = self.border.mask(inside, self.frame, stride)
                kept.append(np.where(inside, values, np.float32(np.nan)))
            return tuple(kept)

        return replace(
            self,
            energies=masked(self.energies),
            bounded=masked(self.bounded),
            log_variances=masked(self.log_variances),
            candidates=masked(self.candidates),
        )


def score_steps(
    network: UFlow,
    intensity: IntensityRange,
    plane: Plane,
    *,
    window: Window | None = None,
    tile: int = 1024,
    halo: int = -1,
    candidate_threshold: float | None = None,
    phase: str | None = "Detecting",
) -> Steps[ScoreMaps]:
    """Run the network over a plane, tile by tile.

    Parameters
    ----------
    network : UFlow
        In evaluation mode.
    intensity : IntensityRange
        Brightness range of the model.
    plane : Plane
        The image.
    window : Window, optional
        The part to look at, its corner at multiples of the coarsest stride; the whole plane by default.
    tile, halo : int
        As in :class:`~napari_uflow.config.DetectionConfig`.
    candidate_threshold : float, optional
        Squared latent from which a channel is counted in `candidates`.
    phase : str or None
        Name of the phase in the progress events; None for no events.

    Raises
    ------
    Stopped
        If it was asked to finish.
    """
    window = Window(0, 0, *plane.shape) if window is None else window
    strides = network.strides
    n_kinds = 3 if candidate_threshold is None else 4
    mosaics = [[Mosaic(window.shape, stride) for stride in strides] for _ in range(n_kinds)]
    grid = _grid(network, window.shape, tile, halo)
    band = _FeatureBand(network, intensity, plane, window, grid)
    # A GPU computes a tile while the one before is put away and the next one is read.
    behind: Callable[[], None] | None = None
    for i, part in enumerate(grid):
        progress = None if phase is None else Progress(phase, i, len(grid))
        if progress is not None:
            yield from or_stop(progress)
        yield from band.cover(part.outer, progress)
        inner = _aligned(part.inner, grid.align)
        seen = [inner.grown(min(halo, grid.halo)).clipped(band.shape) for halo in network.flow_halos]
        frames = [network.frame(view.shifted(window.row, window.col), plane.shape) for view in seen]
        looked_at = _score_window(network, band.features(seen), frames, seen, inner, candidate_threshold)
        kinds = yield from in_pieces(looked_at, progress)
        unmeasured = _unmeasured(network.border, band.valid(seen), seen, frames, inner, strides)
        if behind is not None:
            behind()
        behind = partial(_put_away, mosaics, Tile(inner, part.inner), _Arriving(kinds), unmeasured)
    if behind is not None:
        behind()
    if phase is not None:
        yield from or_stop(Progress(phase, len(grid), len(grid)))
    frame = network.frame(window, plane.shape)
    energies, bounded, log_variances, *candidates = [tuple(mosaic.values for mosaic in kind) for kind in mosaics]
    return ScoreMaps(
        energies,
        bounded,
        log_variances,
        candidates[0] if candidates else (),
        strides,
        band.outside,
        frame,
        network.border,
    )


def _grid(network: UFlow, shape: tuple[int, int], tile: int, halo: int) -> TileGrid:
    align = max(network.strides)
    if not network.is_size_free:
        return TileGrid(shape, network.tile, 0, align)
    halo = -(-(network.flow_halo if halo < 0 else halo) // align) * align
    tile = max(align, tile // align * align)
    if max(shape) <= tile + 2 * halo:  # an image no larger than one tile with its halo is computed as a whole
        tile = -(-max(shape) // align) * align
    return TileGrid(shape, tile, halo, align)


def _aligned(window: Window, align: int) -> Window:
    """Return a window whose end, where it is the image's own, is moved out to the next multiple."""
    height, width = (-(-size // align) * align for size in window.shape)
    return Window(window.row, window.col, height, width)


def _place(inner: Window, outer: Window, stride: int) -> tuple[slice, slice]:
    """Return the rows and columns, in positions, that a window has in another one."""
    return inner.shifted(-outer.row, -outer.col).scaled(stride).slices()


class _FeatureBand:
    """Features of the rows that the flow looks at; the backbone sees each place once, and its surroundings.

    The flow's windows overlap by more than the image's own pixels would cost in memory, so only a band as high as a
    row of them is kept, over the whole width.
    """

    def __init__(self, network: UFlow, intensity: IntensityRange, plane: Plane, window: Window, grid: TileGrid):
        self._network, self._intensity, self._plane, self._window = network, intensity, plane, window
        self._device = network.device
        align = grid.align
        self._height, self._width = (-(-size // align) * align for size in window.shape)
        self._cols = sorted({-(-tile.inner.stop_col // align) * align for tile in grid})
        self._capacity = max(tile.outer.height for tile in grid)
        self._levels: list[torch.Tensor] = []
        # The band holds the rows from `first` on; those before `row` are there, and of those to `stop` the columns
        # before `col`.
        self._first = self._row = self._stop = self._col = 0
        self._valid: list[NDArray[np.bool_]] | None = None
        self._n_outside = np.zeros(plane.n_channels)
        self._n_measured = np.zeros(plane.n_channels)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of what is looked at, in pixels, up to the next multiple of the coarsest stride."""
        return self._height, self._width

    @property
    def outside(self) -> float:
        """Part of the measured pixels that are out of the model's range, in the channel that has most of them."""
        return float(np.max(self._n_outside / np.maximum(self._n_measured, 1)))

    def cover(self, outer: Window, progress: Progress | None) -> Steps[None]:
        """Compute what is missing of a window; windows are asked for row by row, from left to right."""
        if outer.stop_row > self._stop:
            self._keep_from(outer.row)
            self._row, self._stop, self._col = self._stop, outer.stop_row, 0
        while self._col < min(outer.stop_col, self._width):
            stop_col = next(col for col in self._cols if col > self._col)
            yield from self._compute(
                Window(self._row, self._col, self._stop - self._row, stop_col - self._col), progress
            )
            self._col = stop_col

    def _keep_from(self, row: int) -> None:
        """Move the rows that are still needed to the top of the band."""
        for level, stride in zip(self._levels, self._network.strides, strict=False):  # none before the first chunk
            kept = level[:, :, (row - self._first) // stride : (self._stop - self._first) // stride]
            level[:, :, : kept.shape[2]] = kept.clone()
        self._first = row

    def _compute(self, chunk: Window, progress: Progress | None) -> Steps[None]:
        network, window = self._network, self._window
        wanted = chunk.shifted(window.row, window.col)
        outer = network.reading_window(wanted, self._plane.shape)
        values = self._plane.read(outer)
        self._count(values, wanted, outer)
        is_valid: NDArray[np.bool_] = np.isfinite(values.sum(axis=0))
        image = torch.from_numpy(self._intensity.apply(values))[None]
        if self._device.type == "cuda":  # from pinned memory it is sent while the GPU computes on
            image = image.pin_memory().to(self._device, non_blocking=True)
        else:
            image = image.to(self._device)
        features = yield from in_pieces(network.features_in_pieces(image), progress)
        if not self._levels:
            for x, s in zip(features, network.strides, strict=True):
                size = (1, x.shape[1], self._capacity // s, self._width // s)
                self._levels.append(torch.empty(size, dtype=x.dtype, device=x.device))
        inner = wanted.shifted(-outer.row, -outer.col)
        place = chunk.shifted(-self._first, 0)
        for x, level, s in zip(features, self._levels, network.strides, strict=True):
            rows, cols = inner.scaled(s).slices()
            at_rows, at_cols = place.scaled(s).slices()
            level[:, :, at_rows, at_cols] = x[:, :, rows, cols]
        self._keep_valid(is_valid[inner.slices()], chunk)

    def _count(self, values: NDArray[np.float32], wanted: Window, outer: Window) -> None:
        own = wanted.clipped((self._window.stop_row, self._window.stop_col))
        rows, cols = own.shifted(-outer.row, -outer.col).slices()
        pixels = values[:, rows, cols].reshape(len(values), -1)
        low, high = (np.array(limits)[:, None] for limits in (self._intensity.low, self._intensity.high))
        self._n_measured += np.isfinite(pixels).sum(axis=1)
        self._n_outside += ((pixels < low) | (pixels > high)).sum(axis=1)

    def _keep_valid(self, is_valid: NDArray[np.bool_], chunk: Window) -> None:
        strides = self._network.strides
        if self._valid is None:
            if is_valid.all():
                return
            self._valid = [np.ones((self._height // s, self._width // s), bool) for s in strides]
        for valid, s in zip(self._valid, strides, strict=True):
            valid[chunk.scaled(s).slices()] = all_in_cells(is_valid, s)

    def features(self, windows: Sequence[Window]) -> list[torch.Tensor]:
        """Return the features of each level, finest first, in a window that was covered; views, not copies."""
        found = []
        for level, window, s in zip(self._levels, windows, self._network.strides, strict=True):
            rows, cols = window.shifted(-self._first, 0).scaled(s).slices()
            found.append(level[:, :, rows, cols])
        return found

    def valid(self, windows: Sequence[Window]) -> list[NDArray[np.bool_] | None]:
        """Return where the positions of each level's window were measured throughout; None for everywhere."""
        if self._valid is None:
            return [None] * len(windows)
        each = zip(self._valid, windows, self._network.strides, strict=True)
        return [valid[window.scaled(s).slices()] for valid, window, s in each]


@torch.no_grad()
def _score_window(
    network: UFlow,
    features: Sequence[torch.Tensor],
    frames: Sequence[Window | None],
    seen: Sequence[Window],
    inner: Window,
    candidate_threshold: float | None,
) -> Pieces[list[list[torch.Tensor]]]:
    """Return energies, bounded energies, log_variances and, with a threshold, counts of candidates, all levels of each.

    `features` and `frames` are those of the windows `seen`, one per level; what is returned is that of `inner`.
    """
    strides = network.strides
    features = [network.border.apply(x, frame, s) for x, frame, s in zip(features, frames, strides, strict=True)]
    # Where the window of each level lies in that of the next coarser one, in its own positions.
    places = [_place(fine, coarse, s) for fine, coarse, s in zip(seen, seen[1:], strides, strict=False)]
    latents = yield from network.latents_in_pieces(features, places)
    kinds: list[list[torch.Tensor]] = [[] for _ in range(3 if candidate_threshold is None else 4)]
    for z, ln_det, view, s in zip(latents.z, latents.ln_det, seen, strides, strict=True):
        rows, cols = _place(inner, view, s)
        z = z[:, :, rows, cols]
        maps = [energy(z), bounded_energy(z), log_variance(ln_det[:, rows, cols], z.shape[1])]
        if candidate_threshold is not None:
            maps.append((z.square() >= candidate_threshold).sum(dim=1).float())
        for kind, values in zip(kinds, maps, strict=True):
            kind.append(values)
    # Latents that overflow are as strange as can be; NaN is kept for what was not measured.
    return [
        [x[0].nan_to_num(nan=largest, posinf=largest, neginf=-largest) for x in maps]
        for maps, largest in zip(kinds, _LARGEST, strict=False)
    ]


class _Arriving:
    """Maps on their way from a device; those of a GPU are sent while it computes on."""

    def __init__(self, kinds: Sequence[Sequence[torch.Tensor]]) -> None:
        self._event: torch.cuda.Event | None = None
        if kinds[0][0].is_cuda:
            self._kinds = [[torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in maps] for maps in kinds]
            for targets, maps in zip(self._kinds, kinds, strict=True):
                for target, x in zip(targets, maps, strict=True):
                    target.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(kinds[0][0].device))
        else:
            self._kinds = [[x.cpu() for x in maps] for maps in kinds]

    def arrays(self) -> list[list[NDArray[np.float32]]]:
        """Return the maps when they are there, all levels of each kind."""
        if self._event is not None:
            self._event.synchronize()
        return [[x.numpy() for x in maps] for maps in self._kinds]


def _put_away(
    mosaics: Sequence[Sequence[Mosaic]],
    tile: Tile,
    arriving: _Arriving,
    unmeasured: Sequence[NDArray[np.bool_] | None],
) -> None:
    """Put the maps of a tile into those of the image, NaN where not measured."""
    for kind, maps in zip(mosaics, arriving.arrays(), strict=True):
        for mosaic, values, is_missing in zip(kind, maps, unmeasured, strict=True):
            if is_missing is not None:
                values[is_missing] = np.nan
            mosaic.put(tile, values)


def _unmeasured(
    border: Border,
    valid: Sequence[NDArray[np.bool_] | None],
    seen: Sequence[Window],
    frames: Sequence[Window | None],
    inner: Window,
    strides: Sequence[int],
) -> list[NDArray[np.bool_] | None]:
    """Return where the positions of `inner` were not measured, per level; None for nowhere."""
    found: list[NDArray[np.bool_] | None] = []
    for is_valid, view, frame, stride in zip(valid, seen, frames, strides, strict=True):
        if is_valid is None:
            found.append(None)
            continue
        rows, cols = _place(inner, view, stride)
        found.append(~border.mask(is_valid, frame, stride)[rows, cols])
    return found


def all_in_cells(mask: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Return where all pixels of a stride x stride cell are set; (M, N) to (M / stride, N / stride) bool."""
    m, n = mask.shape
    cells: NDArray[np.bool_] = np.min(mask.reshape(m // stride, stride, n // stride, stride), axis=(1, 3))
    return cells
