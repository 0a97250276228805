"""What the network says about a picture, tile by tile: one small map per level for each kind of evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.image import IntensityRange, Mosaic, Plane, TileGrid, Window
from napari_uflow.model.border import hold, hold_mask
from napari_uflow.model.energy import bounded_energy, energy, ln_spread
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Pieces, Progress, Steps, in_pieces, or_stop

__all__ = ["Evidence", "all_in_cells", "evidence_steps"]

Maps = tuple[NDArray[np.float32], ...]

# What stands for a value that overflowed: of energies, bounded energies (of the largest latent that they know), spreads
# (more than any flow of float32 can expect) and counts.
_LARGEST = (float(np.finfo(np.float32).max), 70.0, 200.0, 0.0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Maps of one picture, each kind a tuple of (ceil(M / stride), ceil(N / stride)) arrays, float32, finest first.

    NaN where not measured.

    Attributes
    ----------
    energies : tuple of arrays
        Mean of the squared latents.
    bounded : tuple of arrays
        Mean of log(1 + z squared).
    spreads : tuple of arrays
        Logarithm of the variance that the flow expects.
    candidates : tuple of arrays
        Number of channels whose squared latent is at or above a threshold; empty where none was given.
    strides : tuple of int
        Pixels per position of each level.
    outside : float
        Part of the measured pixels, 0 to 1, that are darker or brighter than the model's intensity range, in the
        channel that has most of them.
    frame : Window or None
        Where the picture lies as seen from the maps, in pixels, if positions at its border have the features of others.
    """

    energies: Maps
    bounded: Maps
    spreads: Maps
    candidates: Maps
    strides: tuple[int, ...]
    outside: float
    frame: Window | None = None

    @property
    def tested(self) -> Maps:
        """The maps that the calibrated region test looks at."""
        return self.bounded + self.spreads

    @property
    def tested_strides(self) -> tuple[int, ...]:
        """Stride of each of these maps."""
        return self.strides * 2

    def only(self, is_normal: NDArray[np.bool_]) -> Evidence:
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
                inside = hold_mask(inside, self.frame, stride)
                kept.append(np.where(inside, values, np.float32(np.nan)))
            return tuple(kept)

        return replace(
            self,
            energies=masked(self.energies),
            bounded=masked(self.bounded),
            spreads=masked(self.spreads),
            candidates=masked(self.candidates),
        )


def evidence_steps(
    network: UFlow,
    intensity: IntensityRange,
    plane: Plane,
    *,
    window: Window | None = None,
    tile: int = 1024,
    halo: int = -1,
    candidate_threshold: float | None = None,
    phase: str | None = "Detecting",
) -> Steps[Evidence]:
    """Run the network over a plane, tile by tile.

    Parameters
    ----------
    network : UFlow
        In evaluation mode.
    intensity : IntensityRange
        Brightness range of the model.
    plane : Plane
        The picture.
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
    device = next(network.flow.parameters()).device
    window = Window(0, 0, *plane.shape) if window is None else window
    strides = network.strides
    n_kinds = 3 if candidate_threshold is None else 4
    mosaics = [[Mosaic(window.shape, stride) for stride in strides] for _ in range(n_kinds)]
    grid = _grid(network, window.shape, tile, halo)
    n_outside = np.zeros(plane.n_channels)
    n_measured = np.zeros(plane.n_channels)
    low, high = (np.array(limits)[:, None] for limits in (intensity.low, intensity.high))
    for i, part in enumerate(grid):
        if phase is not None:
            yield from or_stop(Progress(phase, i, len(grid)))
        wanted = part.outer.shifted(window.row, window.col)
        outer = network.reading_window(wanted, plane.shape)
        values = plane.read(outer)
        is_valid: NDArray[np.bool_] = np.isfinite(values.sum(axis=0))
        rows, cols = part.inner.shifted(window.row - outer.row, window.col - outer.col).slices()
        pixels = values[:, rows, cols].reshape(len(values), -1)
        n_measured += np.isfinite(pixels).sum(axis=1)
        n_outside += ((pixels < low) | (pixels > high)).sum(axis=1)
        picture = torch.from_numpy(intensity.apply(values))[None].to(device)
        frame = network.held_frame(wanted, plane.shape)
        pieces = _evidence(network, picture, outer, wanted, frame, candidate_threshold)
        kinds = yield from in_pieces(pieces, None if phase is None else Progress(phase, i, len(grid)))
        for kind, maps in zip(mosaics, kinds, strict=True):
            for mosaic, values_at, stride in zip(kind, maps, strides, strict=True):
                if not is_valid.all():
                    inside = all_in_cells(is_valid[wanted.shifted(-outer.row, -outer.col).slices()], stride)
                    values_at[~hold_mask(inside, frame, stride)] = np.nan
                mosaic.put(part, values_at)
    if phase is not None:
        yield from or_stop(Progress(phase, len(grid), len(grid)))
    outside = float(np.max(n_outside / np.maximum(n_measured, 1)))
    frame = network.held_frame(window, plane.shape)
    energies, bounded, spreads, *candidates = [tuple(mosaic.values for mosaic in kind) for kind in mosaics]
    return Evidence(energies, bounded, spreads, candidates[0] if candidates else (), strides, outside, frame)


def _grid(network: UFlow, shape: tuple[int, int], tile: int, halo: int) -> TileGrid:
    align = max(network.strides)
    if not network.is_size_free:
        return TileGrid(shape, network.tile, 0, align)
    halo = network.halo if halo < 0 else -(-halo // align) * align
    tile = max(align, tile // align * align)
    if max(shape) <= tile + 2 * halo:  # a picture no larger than one tile with its halo is computed as a whole
        tile = -(-max(shape) // align) * align
    return TileGrid(shape, tile, halo, align)


@torch.no_grad()
def _evidence(
    network: UFlow,
    picture: torch.Tensor,
    outer: Window,
    kept: Window,
    frame: Window | None,
    candidate_threshold: float | None,
) -> Pieces[list[list[NDArray[np.float32]]]]:
    """Return energies, bounded energies, spreads and, with a threshold, counts of candidates, all levels of each."""
    features: Sequence[torch.Tensor] = yield from network.features_in_pieces(picture)
    if outer != kept:
        inner = kept.shifted(-outer.row, -outer.col)
        features = [
            x[:, :, inner.row // s : inner.stop_row // s, inner.col // s : inner.stop_col // s]
            for x, s in zip(features, network.strides, strict=True)
        ]
    features = [hold(x, frame, s) for x, s in zip(features, network.strides, strict=True)]
    latents = yield from network.latents_in_pieces(features)
    kinds = [
        [energy(z) for z in latents.z],
        [bounded_energy(z) for z in latents.z],
        [ln_spread(ln_det, z.shape[1]) for z, ln_det in zip(latents.z, latents.ln_det, strict=True)],
    ]
    if candidate_threshold is not None:
        kinds.append([(z.square() >= candidate_threshold).sum(dim=1).float() for z in latents.z])
    # Latents that overflow are as strange as can be; NaN is kept for what was not measured.
    return [
        [x[0].nan_to_num(nan=largest, posinf=largest, neginf=-largest).cpu().numpy() for x in maps]
        for maps, largest in zip(kinds, _LARGEST, strict=False)
    ]


def all_in_cells(mask: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Return where all pixels of a stride x stride cell are set; (M, N) to (M / stride, N / stride) bool."""
    m, n = mask.shape
    cells: NDArray[np.bool_] = np.min(mask.reshape(m // stride, stride, n // stride, stride), axis=(1, 3))
    return cells
