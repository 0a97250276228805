"""Drawing of a scene of fibres as a scanning electron microscope shows it."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_uflow.samples.scene import STEPS, Edits, Fibre, Film, Float32, Rng, Scene

__all__ = ["photograph", "render"]

_BLURS = (1.6, 1.0, 0.7, 0.4, 0.0)
"""Blur in pixels applied after each layer: deeper layers are more out of focus."""


def render(scene: Scene, edits: Edits) -> tuple[Float32, npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Draw the noise-free image from the deepest fibre to the topmost one.

    Returns
    -------
    image : (M, N) array, float32
        Grey levels before noise.
    owner : (M, N) array, int16
        Number of the fibre visible in each pixel, -1 for none.
    claim : (M, N) array, uint8
        Number of the defect visible in each pixel, 0 for none.
    """
    m, n = scene.shape
    canvas = scene.ground.ravel().copy()
    owner, claim = np.full(m * n, -1, np.int16), np.zeros(m * n, np.uint8)
    rows = (np.arange(m, dtype=np.float32) - (m - 1) / 2)[:, None]
    cols = np.arange(n, dtype=np.float32) - (n - 1) / 2
    for number, before in enumerate(scene.fibres):
        fibre = edits.fibres.get(number, before)
        across = (rows * np.float32(fibre.cos) - cols * np.float32(fibre.sin)).ravel()
        along = (rows * np.float32(fibre.sin) + cols * np.float32(fibre.cos)).ravel()
        margin = float(fibre.radius.max()) + 0.4 * scene.diameter + 1  # a fibre and its shadow
        films = edits.films.get(number, [])
        low = min(float(table.min()) for table in (before.offset, fibre.offset, *(film.low for _, film in films)))
        high = max(float(table.max()) for table in (before.offset, fibre.offset, *(film.high for _, film in films)))
        near = np.flatnonzero((across > low - margin) & (across < high + margin))
        across, along = across[near], along[near]
        entry = np.rint((along * STEPS) + (fibre.offset.size - 1) / 2).astype(np.intp)
        cover = _draw_fibre(canvas, near, across, entry, fibre, scene)
        owner[near[cover > 0.5]] = number
        claim[near[cover > 0.5]] = 0
        for defect, start, stop in edits.spans.get(number, []):
            was = before.radius[entry] - np.abs(across - before.offset[entry]) > 0
            claim[near[(entry >= start) & (entry < stop) & (was | (cover > 0.5))]] = defect
        for defect, film in films:
            cover = _draw_film(canvas, near, across, along, entry, film)
            claim[near[cover > 0.5]] = defect
        if number + 1 == len(scene.fibres) or scene.fibres[number + 1].layer != fibre.layer:
            blurred = ndimage.gaussian_filter(canvas.reshape(m, n), _BLURS[fibre.layer] * scene.diameter / 9)
            canvas = blurred.ravel()
    focused = ndimage.gaussian_filter(canvas.reshape(m, n), scene.focus)
    return scene.black + scene.gain * focused, owner.reshape(m, n), claim.reshape(m, n)


def _draw_fibre(
    canvas: Float32,
    near: npt.NDArray[np.intp],
    across: Float32,
    entry: npt.NDArray[np.intp],
    fibre: Fibre,
    scene: Scene,
) -> Float32:
    """Draw a fibre over the canvas and return the fraction, 0 to 1, of each near pixel that it covers."""
    slope = np.gradient(fibre.offset) * STEPS
    upright = np.asarray(1 / np.sqrt(1 + slope**2), np.float32)
    side = (across - fibre.offset[entry]) * upright[entry]
    radius, swell = fibre.radius[entry], fibre.swell[entry]
    away = np.abs(side)
    cover: Float32 = np.clip(radius - away + 0.5, 0, 1)
    side = np.clip(side / np.maximum(radius, 1), -1, 1)
    shadow = np.where(radius > 0, np.clip(1 - (away - radius) / np.float32(0.4 * scene.diameter), 0, 1), 0)
    square = side * side
    # more secondary electrons leave near an edge, and the side facing the detector is slightly brighter
    lit = side * np.float32(fibre.cos * scene.light[0] - fibre.sin * scene.light[1])
    tube = 0.84 + 0.20 * square * square + 0.07 * lit
    ball = 1.0 + 0.10 * square * square * square + 0.10 * lit - 0.14 * (side - 0.3 * lit) ** 2
    value = fibre.level[entry] * (tube + swell * (ball - tube))
    canvas[near] *= 1 - 0.26 * shadow * shadow
    canvas[near] += 0.93 * cover * (value - canvas[near])
    return cover


def _draw_film(
    canvas: Float32,
    near: npt.NDArray[np.intp],
    across: Float32,
    along: Float32,
    entry: npt.NDArray[np.intp],
    film: Film,
) -> Float32:
    """Draw a film over the canvas and return the fraction, 0 to 1, of each near pixel that it covers."""
    low, width = film.low[entry], np.maximum(film.high[entry] - film.low[entry], 1)
    part = (across - low) / width
    inside = np.clip((0.5 - np.abs(part - 0.5)) * width + 0.5, 0, 1)
    # the free edge of a film is concave
    place = along - film.middle - film.skew * (part - 0.5)
    reach = np.where(place < 0, film.reach[0], film.reach[1]) * (0.66 + 0.34 * np.abs(2 * part - 1) ** 1.7)
    to_edge = reach.astype(np.float32) - np.abs(place)
    cover: Float32 = inside * np.clip(to_edge + 0.5, 0, 1)
    sag = 4 * part * (1 - part)
    rim = np.clip(1 - np.abs(to_edge - 1.5) / 1.5, 0, 1)
    streak = film.streaks[np.clip((part * film.streaks.size).astype(np.intp), 0, film.streaks.size - 1)]
    value = film.level * (0.88 - 0.08 * sag + 0.05 * streak + 0.10 * rim * sag)
    canvas[near] += 0.95 * cover * (value - canvas[near])
    return cover


def photograph(rng: Rng, clean: Float32, noise: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """Add shot noise, read-out noise and line noise, and round to bytes."""
    shot, read_out, line = noise
    grain = rng.standard_normal(clean.shape, np.float32)
    grain[:, 1:] += 0.35 * grain[:, :-1]  # the detector lags the beam slightly
    lines = line * rng.standard_normal((clean.shape[0], 1), np.float32)
    noisy = clean + grain * np.sqrt(shot * np.maximum(clean, 0) + read_out**2) + lines
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
