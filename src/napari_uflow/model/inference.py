"""Score maps: the network over an image, tile by tile; one small map per level and kind of score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.image.grid import Mosaic, Tile, TileGrid, Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.interpolation import interpolated
from napari_uflow.image.plane import Plane
from napari_uflow.image.scaled import scaled_plane
from napari_uflow.model.border import Border
from napari_uflow.model.energy import bounded_energy, energy, log_variance
from napari_uflow.model.feature_band import FeatureBand, LevelView, all_in_cells
from napari_uflow.model.info import at_size
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Chunks, Progress, Steps, chunk_steps, or_stop

__all__ = ["ScoreMaps", "score_steps"]

Maps = tuple[NDArray[np.float32], ...]

# Replacement of values that overflowed: of energies, bounded energies (that of the largest float32 latent),
# log-variances (more than a flow in float32 can predict) and counts.
_LARGEST = (float(np.finfo(np.float32).max), 70.0, 200.0, 0.0)
_LARGEST_EVIDENCE = 1e6


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreMaps:
    """Maps of scores of one image, NaN in positions that were not measured.

    Every kind is a tuple of arrays (ceil(M / stride), ceil(N / stride)), float32, finest level first.

    Attributes
    ----------
    energies : tuple of arrays
        Mean of the squared latents over the channels, 0 or more; 1 on average for standard normal latents.
    bounded : tuple of arrays
        Mean of log(1 + z squared) over the channels, 0 or more.
    log_variances : tuple of arrays
        Logarithm of the variance that the flow predicts, -2 ln det / C.
    candidates : tuple of arrays
        Number of channels whose squared latent reaches a threshold; empty without a threshold.
    evidence : tuple of arrays
        Evidence on the scale of normal positions, 0 at their median and 1 at their .99 quantile; one array for joint
        levels, none for a pyramid.
    n_channels : tuple of int
        Latent channels of each level.
    strides : tuple of float
        Pixels of the image per position of each level.
    outside : float
        Fraction, 0 to 1, of the measured pixels that are darker or brighter than the model's intensity range, in the
        channel with the highest fraction.
    frame : Window or None
        Image as seen from the maps, in pixels; None for a network without a treatment of the border.
    border : Border
        Treatment of the image border.
    magnification : float
        Pixels that the network saw per pixel of the image.
    """

    energies: Maps
    bounded: Maps
    log_variances: Maps
    candidates: Maps
    n_channels: tuple[int, ...]
    strides: tuple[float, ...]
    outside: float
    evidence: Maps = ()
    frame: Window | None = None
    border: Border = Border()
    magnification: float = 1.0

    @property
    def tested(self) -> Maps:
        """Maps that the calibrated region test uses."""
        return self.evidence or self.bounded + self.log_variances

    @property
    def tested_strides(self) -> tuple[float, ...]:
        """Stride of each of these maps."""
        return self.strides if self.evidence else self.strides * 2

    def of_magnified(self, magnification: float) -> ScoreMaps:
        """Return the maps of a magnified image as those of the image itself."""
        if magnification == 1:
            return self
        strides = tuple(stride / magnification for stride in self.strides)
        return replace(self, strides=strides, frame=None, magnification=magnification)

    def only(self, is_normal: NDArray[np.bool_]) -> ScoreMaps:
        """Return the maps with NaN in every position that contains a pixel that is not normal.

        Parameters
        ----------
        is_normal : (M, N) array, bool
            True in pixels that are free of anomalies, of the image as the network saw it.
        """

        def masked(maps: Maps) -> Maps:
            kept = []
            for values, own in zip(maps, self.strides, strict=False):
                stride = int(own)
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
            evidence=masked(self.evidence),
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
    octave: int = 1,
) -> Steps[ScoreMaps]:
    """Run the network over a plane, tile by tile, in all of its octaves.

    The evidence of a position is the largest of all octaves, interpolated between the positions of the coarser ones.

    Parameters
    ----------
    network : UFlow
        Network in evaluation mode.
    intensity : IntensityRange
        Brightness range of the model.
    plane : Plane
        Image.
    window : Window, optional
        Part to compute, its corner at multiples of the coarsest stride; the whole plane by default.
    tile, halo : int
        As in :class:`~napari_uflow.config.DetectionConfig`.
    candidate_threshold : float, optional
        Squared latent from which a channel is counted in `candidates`.
    phase : str or None
        Name of the phase in the progress events; None for no events.
    octave : int
        Number of this octave, from 1.

    Raises
    ------
    Stopped
        If the job was asked to finish.
    """
    window = Window(0, 0, *plane.shape) if window is None else window
    shown = None if phase is None else at_size(phase, octave - 1)
    kinds = ["energies", "bounded", "log_variances"]
    kinds += ["candidates"] if candidate_threshold is not None else []
    kinds += ["evidence"] if network.is_joint else []
    mosaics = [[Mosaic(window.shape, stride) for _ in kinds] for stride in network.strides]
    grid = _grid(network, window.shape, tile, halo)
    band = FeatureBand(network, intensity, plane, window, grid)
    # A GPU computes a tile while the maps of the previous one are stored and the next one is read.
    store_previous: Callable[[], None] | None = None
    for i, part in enumerate(grid):
        progress = None if shown is None else Progress(shown, i, len(grid))
        if progress is not None:
            yield from or_stop(progress)
        yield from band.cover(part.outer, progress)
        inner = _aligned(part.inner, grid.align)
        views = _views(network, inner, grid.halo, band.shape, window, plane.shape)
        computed = _score_views(network, band.features(views), views, inner, candidate_threshold)
        levels = yield from chunk_steps(computed, progress)
        unmeasured = [_unmeasured(network.border, *each, inner) for each in zip(views, band.valid(views), strict=True)]
        if store_previous is not None:
            store_previous()
        store_previous = partial(_store, mosaics, Tile(inner, part.inner), _Arriving(levels), unmeasured)
    if store_previous is not None:
        store_previous()
    if shown is not None:
        yield from or_stop(Progress(shown, len(grid), len(grid)))
    by_kind = {
        name: tuple(mosaic.values for mosaic in kind)
        for name, kind in zip(kinds, zip(*mosaics, strict=True), strict=True)
    }
    evidence = by_kind.get("evidence", ())
    if network.coarser is not None:
        options = {"tile": tile, "halo": halo, "octave": octave + 1}
        coarse = yield from _coarser_steps(network, intensity, plane, window, phase=phase, **options)
        evidence = (np.where(np.isnan(evidence[0]), np.float32(np.nan), np.fmax(evidence[0], coarse)),)
    return ScoreMaps(
        energies=by_kind["energies"],
        bounded=by_kind["bounded"],
        log_variances=by_kind["log_variances"],
        candidates=by_kind.get("candidates", ()),
        evidence=evidence,
        n_channels=network.flow.latent_channels,
        strides=network.strides,
        outside=band.outside,
        frame=network.frame(window, plane.shape),
        border=network.border,
    )


def _coarser_steps(
    network: UFlow,
    intensity: IntensityRange,
    plane: Plane,
    window: Window,
    *,
    tile: int,
    halo: int,
    phase: str | None,
    octave: int,
) -> Steps[NDArray[np.float32]]:
    """Return the evidence of an octave and those after it at the positions of a window of the one before."""
    assert network.coarser is not None
    small, align = scaled_plane(plane, 0.5), network.coarser.align
    # its positions around those of the window, between which is interpolated
    first = [max(0, (at // 2 - align) // align * align) for at in (window.row, window.col)]
    stop = [min(n, -(-at // 2) + align) for n, at in zip(small.shape, (window.stop_row, window.stop_col), strict=True)]
    part = Window(first[0], first[1], stop[0] - first[0], stop[1] - first[1])
    scores = yield from score_steps(
        network.coarser,
        intensity,
        small,
        window=part,
        tile=max(align, tile // 2 // align * align),  # it is made of one twice as large
        halo=halo,
        phase=phase,
        octave=octave,
    )
    (values,), (stride,) = scores.evidence, network.strides
    row, col = (at // stride for at in (window.row - 2 * part.row, window.col - 2 * part.col))
    rows, cols = (-(-n // stride) for n in window.shape)
    return interpolated(values, 2.0, row, row + rows, col + cols)[:, col:]


def _grid(network: UFlow, shape: tuple[int, int], tile: int, halo: int) -> TileGrid:
    align = network.align
    if not network.is_size_free:
        return TileGrid(shape, network.tile, 0, align)
    halo = -(-(network.flow_halo if halo < 0 else halo) // align) * align
    tile = max(align, tile // align * align)
    if max(shape) <= tile + 2 * halo:  # an image no larger than one tile with its halo is computed as a whole
        tile = -(-max(shape) // align) * align
    return TileGrid(shape, tile, halo, align)


def _aligned(window: Window, align: int) -> Window:
    """Return a window whose height and width are rounded up to the next multiple."""
    height, width = (-(-size // align) * align for size in window.shape)
    return Window(window.row, window.col, height, width)


def _views(
    network: UFlow, inner: Window, halo: int, shape: tuple[int, int], window: Window, image_shape: tuple[int, int]
) -> list[LevelView]:
    """Return the views that determine the latents of `inner`, finest level first; none exceeds `halo` or `shape`."""
    views = []
    for stride, flow_halo in zip(network.strides, network.flow_halos, strict=True):
        seen = inner.grown(min(flow_halo, halo)).clipped(shape)
        frame = network.frame(seen.shifted(window.row, window.col), image_shape)
        views.append(LevelView(stride=stride, window=seen, frame=frame))
    return views


@torch.no_grad()
def _score_views(
    network: UFlow,
    features: Sequence[torch.Tensor],
    views: Sequence[LevelView],
    inner: Window,
    candidate_threshold: float | None,
) -> Chunks[list[list[torch.Tensor]]]:
    """Compute the maps of `inner` by level: energy, bounded energy, log-variance, then as configured.

    The others are the count of candidates, with a threshold, and the evidence, of joint levels.
    """
    features = [network.border.apply(x, view.frame, view.stride) for x, view in zip(features, views, strict=True)]
    places = [fine.positions_in(coarse) for fine, coarse in pairwise(views)]
    latents = yield from network.latents_in_chunks(features, places)
    levels = []
    for z, ln_det, view in zip(latents.z, latents.ln_det, views, strict=True):
        rows, cols = view.positions_of(inner)
        z = z[:, :, rows, cols]
        maps = [energy(z), bounded_energy(z), log_variance(ln_det[:, rows, cols], z.shape[1])]
        if candidate_threshold is not None:
            maps.append((z.square() >= candidate_threshold).sum(dim=1).float())
        # Latents that overflowed get the highest score; NaN is kept for positions that were not measured.
        bounded = [_bounded(x, largest) for x, largest in zip(maps, _LARGEST, strict=False)]
        if network.is_joint:
            evidence = yield from network.evidence_in_chunks(features[0], latents, view.frame)
            bounded.append(_bounded(evidence[:, rows, cols], _LARGEST_EVIDENCE))
        levels.append(bounded)
    return levels


def _bounded(x: torch.Tensor, largest: float) -> torch.Tensor:
    return x[0].nan_to_num(nan=largest, posinf=largest, neginf=-largest)


class _Arriving:
    """Maps on their way from a device, by level and kind; a GPU copies them while it computes the next ones."""

    def __init__(self, levels: Sequence[Sequence[torch.Tensor]]) -> None:
        self._event: torch.cuda.Event | None = None
        if levels[0][0].is_cuda:
            self._levels = [[torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in maps] for maps in levels]
            for targets, maps in zip(self._levels, levels, strict=True):
                for target, x in zip(targets, maps, strict=True):
                    target.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(levels[0][0].device))
        else:
            self._levels = [[x.cpu() for x in maps] for maps in levels]

    def arrays(self) -> list[list[NDArray[np.float32]]]:
        """Wait for the maps and return them, by level and kind."""
        if self._event is not None:
            self._event.synchronize()
        return [[x.numpy() for x in maps] for maps in self._levels]


def _store(
    mosaics: Sequence[Sequence[Mosaic]],
    tile: Tile,
    arriving: _Arriving,
    unmeasured: Sequence[NDArray[np.bool_] | None],
) -> None:
    """Put the maps of a tile into those of the image, with NaN in positions that were not measured."""
    for of_level, maps, is_missing in zip(mosaics, arriving.arrays(), unmeasured, strict=True):
        for mosaic, values in zip(of_level, maps, strict=True):
            if is_missing is not None:
                values[is_missing] = np.nan
            mosaic.put(tile, values)


def _unmeasured(
    border: Border, view: LevelView, is_valid: NDArray[np.bool_] | None, inner: Window
) -> NDArray[np.bool_] | None:
    """Return a mask of the positions of `inner` that were not measured; None if all were."""
    if is_valid is None:
        return None
    rows, cols = view.positions_of(inner)
    missing: NDArray[np.bool_] = ~border.mask(is_valid, view.frame, view.stride)[rows, cols]
    return missing
