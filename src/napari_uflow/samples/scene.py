"""Scene of electrospun fibres: the geometry, grey levels and imaging conditions that an image is drawn from.

A fibre is a straight axis and four tables along it (position of the centre line, radius, grey level, swelling), so a
defect is an edited table: a bead increases the radius, a break removes a piece, and a web is a film between two fibres
that run side by side.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["STEPS", "Edits", "Fibre", "Film", "Float32", "Rng", "Scene", "make_scene"]

Float32 = npt.NDArray[np.float32]
Rng = np.random.Generator

STEPS = 2
"""Entries of a fibre's tables per pixel of its axis; the nearest entry is at most a tenth of a pixel off."""

_DEPTHS = (0.13, 0.21, 0.34, 0.55, 0.84)
"""Grey level of each layer of fibres, deepest first; 1 is a fibre on top of all others."""

_COVERS = (0.40, 0.40, 0.36, 0.32, 0.24)
"""Fraction of the image that the fibres of each layer cover."""

_DRUM_ANGLE, _DRUM_SD, _DRUM_WAVE = 0.6, 0.03, 0.08
"""Aligned fibres: main direction and standard deviation around it, in radians, and amplitude of the waves."""


@dataclass(frozen=True)
class Fibre:
    """Straight axis through the centre of the image, with tables of `STEPS` entries per pixel along it."""

    layer: int
    cos: float
    sin: float
    offset: Float32
    """Distance of the centre line from the axis, in pixels."""
    radius: Float32
    """Radius in pixels; -1 in gaps."""
    level: Float32
    """Grey level of the core, 0 to about 1.2."""
    swell: Float32
    """0 (fibre) to 1 (bead, which is shaded as a ball instead of a tube)."""


@dataclass(frozen=True)
class Film:
    """Film between two lines along the axis of a fibre."""

    low: Float32
    high: Float32
    middle: float
    reach: tuple[float, float]
    """Extent before and after the middle, in pixels along the axis."""
    skew: float
    level: float
    streaks: Float32


@dataclass
class Edits:
    """Changes made by the defects, by the number of the fibre that carries them."""

    fibres: dict[int, Fibre] = field(default_factory=dict)
    films: dict[int, list[tuple[int, Film]]] = field(default_factory=dict)
    spans: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Defect number and range of table entries in which the fibre, before or after the edit, belongs to the defect."""


@dataclass(frozen=True)
class Scene:
    """Everything that determines the noise-free image, and the amplitudes of the noise."""

    shape: tuple[int, int]
    diameter: float
    fibres: tuple[Fibre, ...]
    pairs: tuple[tuple[int, int], ...]
    """Fibres that run side by side along one axis."""
    ground: Float32
    gain: Float32
    black: float
    light: tuple[float, float]
    focus: tuple[float, float]
    noise: tuple[float, float, float]
    """Shot noise (variance per grey level), read-out noise and line noise (standard deviations in grey levels)."""


def make_scene(rng: Rng, shape: tuple[int, int], diameter: float, aligned: bool) -> Scene:
    """Draw fibres and imaging conditions at random; parameters as in :func:`~napari_uflow.fibre_field`."""
    reach = 0.5 * math.hypot(*shape) + 2.0
    n_entries = int(2 * reach * STEPS) + 1
    diameter = diameter * float(rng.uniform(0.92, 1.08))
    main_angle, angle_sd = float(rng.uniform(0, math.pi)), float(rng.choice([0.45, 0.8, 10.0]))
    wave = float(rng.uniform(0.1, 1.0)) ** 1.5 * 0.9
    if aligned:
        main_angle, angle_sd, wave = _DRUM_ANGLE, _DRUM_SD, _DRUM_WAVE
    fibres: list[Fibre] = []
    pairs: list[tuple[int, int]] = []
    for layer, cover in enumerate(_COVERS):
        for i in range(max(3, round(cover * 2 * reach / diameter))):
            angle = main_angle + angle_sd * float(rng.standard_normal())
            offset = rng.uniform(-reach, reach) + wave * _wander(rng, n_entries, diameter)
            fibres.append(_fibre(rng, layer, angle, offset, diameter))
            # companions run beside it and sometimes cross it at a small angle
            if layer >= 2 and (rng.random() < 0.22 or i < 2):
                first, side = len(fibres) - 1, int(rng.choice([-1, 1]))
                for way in (side, -side) if rng.random() < 0.4 else (side,):
                    pairs.append((first, len(fibres)))
                    apart = way * float(rng.uniform(1.3, 2.4)) * diameter
                    along = np.arange(n_entries) / STEPS - reach - rng.uniform(-0.4, 0.4) * reach
                    apart = apart + float(rng.normal(0, 0.03)) * along + 0.5 * wave * _wander(rng, n_entries, diameter)
                    fibres.append(_fibre(rng, layer, angle, offset + apart, diameter))
    rows, cols = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    tilt, bow = rng.normal(0, 0.08, 2), float(rng.uniform(-0.10, 0.02))
    shade = 1 + tilt[0] * rows[:, None] + tilt[1] * cols + bow * (rows[:, None] ** 2 + cols**2)
    black, white = float(rng.uniform(4, 32)), float(rng.uniform(150, 225))
    turn = float(rng.uniform(0, 2 * math.pi))
    sigma = float(rng.uniform(0.65, 0.95))
    return Scene(
        shape=shape,
        diameter=diameter,
        fibres=tuple(fibres),
        pairs=tuple(pairs),
        ground=_clouds(rng, shape, diameter),
        gain=np.asarray(shade * (white - black), np.float32),
        black=black,
        light=(math.sin(turn), math.cos(turn)),
        focus=(sigma, sigma * float(rng.uniform(1.0, 1.35))),
        noise=(float(rng.uniform(0.15, 0.55)), float(rng.uniform(1.5, 4.0)), float(rng.uniform(0.3, 1.0))),
    )


def _fibre(rng: Rng, layer: int, angle: float, offset: npt.NDArray[Any], diameter: float) -> Fibre:
    n_entries = offset.size
    thick = 0.5 * diameter * min(max(1 + 0.15 * float(rng.standard_normal()), 0.68), 1.5)
    radius = thick * (1 + 0.035 * _smooth_noise(rng, n_entries, 4 * diameter))
    bright = _DEPTHS[layer] * (1 + 0.10 * float(rng.standard_normal()))
    if rng.random() < 0.05:  # a fibre without a good contact charges up
        bright *= 1.22
    level = bright * (1 + 0.05 * _smooth_noise(rng, n_entries, 10 * diameter))
    tables = (np.asarray(table, np.float32) for table in (offset, radius, level, np.zeros(n_entries)))
    return Fibre(layer, math.cos(angle), math.sin(angle), *tables)


def _smooth_noise(rng: Rng, n_entries: int, length_px: float) -> npt.NDArray[np.float64]:
    """Return smooth noise (n_entries,) of standard deviation 1 and correlation length `length_px`."""
    n_knots = max(4, int(n_entries / (STEPS * length_px)) + 4)
    noise = ndimage.zoom(rng.standard_normal(n_knots), n_entries / n_knots, order=3, mode="nearest")
    return np.asarray(noise, np.float64)


def _wander(rng: Rng, n_entries: int, diameter: float) -> npt.NDArray[np.float64]:
    """Return the distance of a centre line from its axis, in pixels: long bends and slight waves."""
    bend = 1.2 * diameter * _smooth_noise(rng, n_entries, 24 * diameter)
    return bend + 0.12 * diameter * _smooth_noise(rng, n_entries, 7 * diameter)


def _clouds(rng: Rng, shape: tuple[int, int], diameter: float) -> Float32:
    """Return the grey level below all fibres: dark, with the faint glow of fibres too deep to be resolved."""
    coarse = rng.standard_normal([max(2, round(n / (3 * diameter))) for n in shape])
    zoom = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    return np.asarray(0.05 + 0.02 * ndimage.zoom(coarse, zoom, order=1, mode="nearest"), np.float32).clip(0)
