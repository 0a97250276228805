"""Images of our own to try things on: fields of electrospun fibres as a scanning electron microscope shows them.

A field is drawn from the deepest fibre to the topmost one. A fibre is a straight axis and four tables along it (where
its centre runs, its radius, its grey level, how much it swells), so a defect is an edited table: a bead swells the
radius, a break takes a piece away, and a web is a film hung between two fibres that run side by side. The field is
drawn twice, without and with its defects; the truth is what differs, and outside it the two are equal to the last bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.io import imsave

from napari_uflow.errors import ConfigError

__all__ = ["DefectKind", "FibreField", "fibre_dataset", "fibre_field", "write_fibre_dataset"]

DefectKind = Literal["bead", "broken", "merged"]

_F32 = npt.NDArray[np.float32]
_Rng = np.random.Generator

_STEPS = 2
"""Entries of a fibre's tables per pixel of its axis; a nearest entry is then at most a tenth of a pixel off."""

_DEPTHS = (0.13, 0.21, 0.34, 0.55, 0.84)
"""Grey level of each layer of fibres, deepest first, on a scale where 1 is a fibre lying on top of all."""

_BLURS = (1.6, 1.0, 0.7, 0.4, 0.0)
"""Blur (px) of all that is drawn so far, after each layer: the deeper, the more out of focus."""

_COVERS = (0.40, 0.40, 0.36, 0.32, 0.24)
"""Part of the field that each layer's fibres cover."""

_TOLERANCE = 2.0
"""Grey levels (of 255, before noise) that a pixel must change by to belong to a defect."""


_DRUM_ANGLE, _DRUM_SPREAD, _DRUM_WAVE = 0.6, 0.03, 0.08
"""Main direction of aligned fibres and the standard deviation around it, in radians, and how wavy they are."""


@dataclass(frozen=True)
class FibreField:
    """A field of fibres and the truth about its defects.

    Attributes
    ----------
    image : ndarray of uint8, shape (M, N)
        The image, 0 to 255.
    labels : ndarray of uint8, shape (M, N)
        0 where nothing is wrong, else the number of the defect: ``kinds[n - 1]`` says what defect ``n`` is.
    kinds : tuple of str
        Kind of each defect: "bead", "broken" or "merged". Empty for a normal field.
    seed : int
        Number that the field was drawn from.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    kinds: tuple[DefectKind, ...]
    seed: int

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Where a defect is: bool, shape (M, N)."""
        return self.labels > 0


def fibre_field(
    seed: int,
    *,
    shape: tuple[int, int] = (256, 256),
    defects: int = 0,
    kinds: Sequence[DefectKind] = get_args(DefectKind),
    severity: tuple[float, float] = (0.0, 1.0),
    diameter_px: float = 9.0,
    aligned: bool = False,
) -> FibreField:
    """Draw one field of electrospun fibres.

    Parameters
    ----------
    seed : int
        Any number from 0 on. The same arguments give the same field; the fibres, the defects and the noise have random
        streams of their own, so the field with defects is the field without them, changed only where they are.
    shape : tuple of int, (M, N)
        Rows and columns, each at least 12 fibre diameters.
    defects : int
        Number of defects, 0 to 20; fewer are drawn when no more find room in view.
    kinds : sequence of str
        The kinds that the defects are drawn from: "bead" (a swelling of a fibre), "broken" (a fibre cut in two) and
        "merged" (fibres that run side by side fused by a film).
    severity : tuple of float, (low, high)
        How evident the defects are, from 0 (as small as a person would still call it a defect) to 1 (evident).
    diameter_px : float
        Mean diameter of the fibres in pixels, 4 to 40.
    aligned : bool
        All fields have the same main direction and little spread around it, like fibres spun on a turning drum;
        otherwise each field has its own, and some have none.

    Returns
    -------
    FibreField
        The image and its truth. A pixel is part of a defect where the defect changes the noise-free image by more
        than 2 grey levels, where the defect itself is seen, or where it is enclosed by such pixels. Everywhere else
        the image has the bytes of the normal field of the same seed.

    Raises
    ------
    ConfigError
        When an argument is out of its range.
    """
    _check(seed, shape, defects, kinds, severity, diameter_px)
    scene = _scene(np.random.default_rng((seed, 0)), shape, diameter_px, aligned)
    normal, owner, _ = _render(scene, _Edits())
    clean, labels = normal, np.zeros(shape, np.uint8)
    chosen: tuple[DefectKind, ...] = ()
    if defects:
        clean, labels, chosen = _with_defects(seed, scene, normal, owner, defects, kinds, severity)
    return FibreField(_photograph(np.random.default_rng((seed, 1)), clean, scene.noise), labels, chosen, seed)


def fibre_dataset(
    n_normal: int, n_defective: int, *, shape: tuple[int, int] = (256, 256), seed: int = 0, **drawing: Any
) -> list[FibreField]:
    """Draw normal fields, then defective ones of one kind each.

    Parameters
    ----------
    n_normal, n_defective : int
        Number of fields without and with defects. The kinds take turns, and a field has 1 to 3 defects of its kind.
    shape : tuple of int, (M, N)
        Rows and columns of each field.
    seed : int
        Number of the data set, from 0 on. Field ``i`` does not depend on how many others are drawn.
    **drawing
        ``severity``, ``diameter_px`` and ``aligned`` of :func:`fibre_field`.

    Returns
    -------
    list of FibreField
        First the normal fields, then the defective ones.
    """
    normals = [fibre_field(_field_seed(seed, 0, i), shape=shape, **drawing) for i in range(n_normal)]
    order: tuple[DefectKind, ...] = get_args(DefectKind)
    return normals + [
        fibre_field(_field_seed(seed, 1, i), shape=shape, defects=1 + (i // 3) % 3, kinds=(order[i % 3],), **drawing)
        for i in range(n_defective)
    ]


def write_fibre_dataset(
    folder: str | Path,
    *,
    n_train: int = 20,
    n_test_good: int = 5,
    n_test_defective: int = 9,
    shape: tuple[int, int] = (256, 256),
    seed: int = 0,
    **drawing: Any,
) -> Path:
    """Write a data set as PNG files in the layout of MVTec AD.

    The images go to ``train/good``, ``test/good`` and ``test/<kind>``, the masks (0 or 255) to
    ``ground_truth/<kind>/<stem>_mask.png``. Files of the same names are overwritten, others are left alone.

    Parameters
    ----------
    folder : str or Path
        Made if it is missing.
    n_train, n_test_good, n_test_defective : int
        Number of images for training, of normal ones for the test, and of defective ones for the test.
    shape : tuple of int, (M, N)
        Rows and columns of each image.
    seed : int
        Number of the data set, from 0 on.
    **drawing
        ``severity``, ``diameter_px`` and ``aligned`` of :func:`fibre_field`.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    fields = fibre_dataset(n_train + n_test_good, n_test_defective, shape=shape, seed=seed, **drawing)
    counts: dict[str, int] = {}
    for i, drawn in enumerate(fields):
        group = f"test/{drawn.kinds[0]}" if drawn.kinds else "train/good" if i < n_train else "test/good"
        stem = f"{counts.setdefault(group, 0):03d}"
        counts[group] += 1
        _write_png(folder / group / f"{stem}.png", drawn.image)
        if drawn.kinds:
            _write_png(folder / "ground_truth" / drawn.kinds[0] / f"{stem}_mask.png", drawn.mask * np.uint8(255))
    return folder


# --- the scene ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fibre:
    """A straight axis through the field's centre and, along it, tables of `_STEPS` entries per pixel."""

    layer: int
    cos: float
    sin: float
    offset: _F32
    """Where the centre line runs, in pixels across the axis."""
    radius: _F32
    """Pixels; -1 where there is no fibre."""
    level: _F32
    """Grey level of the core, 0 to about 1.2."""
    swell: _F32
    """0 for a fibre to 1 for a bead, which is shaded as a ball and not as a tube."""


@dataclass(frozen=True)
class _Film:
    """A film between two lines along a fibre's axis, and how far along the axis it reaches."""

    low: _F32
    high: _F32
    middle: float
    reach: tuple[float, float]
    """How far it reaches before and behind its middle, in pixels."""
    skew: float
    level: float
    streaks: _F32


@dataclass
class _Edits:
    """What the defects change, by the number of the fibre that they sit on."""

    fibres: dict[int, _Fibre] = field(default_factory=dict)
    films: dict[int, list[tuple[int, _Film]]] = field(default_factory=dict)
    spans: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Defect number and the range of table entries in which the fibre, as it was or as it is now, is the defect."""


@dataclass(frozen=True)
class _Scene:
    shape: tuple[int, int]
    diameter: float
    fibres: tuple[_Fibre, ...]
    pairs: tuple[tuple[int, int], ...]
    """Fibres that run side by side on the same axis."""
    ground: _F32
    gain: _F32
    black: float
    light: tuple[float, float]
    focus: tuple[float, float]
    noise: tuple[float, float, float]
    """Shot noise (variance per grey level), read-out noise and line noise (standard deviations in grey levels)."""


def _scene(rng: _Rng, shape: tuple[int, int], diameter: float, aligned: bool) -> _Scene:
    reach = 0.5 * math.hypot(*shape) + 2.0
    n_entries = int(2 * reach * _STEPS) + 1
    diameter = diameter * float(rng.uniform(0.92, 1.08))
    main_angle, spread = float(rng.uniform(0, math.pi)), float(rng.choice([0.45, 0.8, 10.0]))
    wave = float(rng.uniform(0.1, 1.0)) ** 1.5 * 0.9
    if aligned:
        main_angle, spread, wave = _DRUM_ANGLE, _DRUM_SPREAD, _DRUM_WAVE
    fibres: list[_Fibre] = []
    pairs: list[tuple[int, int]] = []
    for layer, cover in enumerate(_COVERS):
        for i in range(max(3, round(cover * 2 * reach / diameter))):
            angle = main_angle + spread * float(rng.standard_normal())
            offset = rng.uniform(-reach, reach) + wave * _wander(rng, n_entries, diameter)
            fibres.append(_fibre(rng, layer, angle, offset, diameter))
            # companions run beside it and now and then cross it at a small angle
            if layer >= 2 and (rng.random() < 0.22 or i < 2):
                first, side = len(fibres) - 1, int(rng.choice([-1, 1]))
                for way in (side, -side) if rng.random() < 0.4 else (side,):
                    pairs.append((first, len(fibres)))
                    apart = way * float(rng.uniform(1.3, 2.4)) * diameter
                    along = np.arange(n_entries) / _STEPS - reach - rng.uniform(-0.4, 0.4) * reach
                    apart = apart + float(rng.normal(0, 0.03)) * along + 0.5 * wave * _wander(rng, n_entries, diameter)
                    fibres.append(_fibre(rng, layer, angle, offset + apart, diameter))
    rows, cols = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    tilt, bow = rng.normal(0, 0.08, 2), float(rng.uniform(-0.10, 0.02))
    shade = 1 + tilt[0] * rows[:, None] + tilt[1] * cols + bow * (rows[:, None] ** 2 + cols**2)
    black, white = float(rng.uniform(4, 32)), float(rng.uniform(150, 225))
    turn = float(rng.uniform(0, 2 * math.pi))
    sigma = float(rng.uniform(0.65, 0.95))
    return _Scene(
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


def _fibre(rng: _Rng, layer: int, angle: float, offset: npt.NDArray[Any], diameter: float) -> _Fibre:
    n_entries = offset.size
    thick = 0.5 * diameter * min(max(1 + 0.15 * float(rng.standard_normal()), 0.68), 1.5)
    radius = thick * (1 + 0.035 * _smooth_noise(rng, n_entries, 4 * diameter))
    bright = _DEPTHS[layer] * (1 + 0.10 * float(rng.standard_normal()))
    if rng.random() < 0.05:  # a fibre without a good contact charges up
        bright *= 1.22
    level = bright * (1 + 0.05 * _smooth_noise(rng, n_entries, 10 * diameter))
    tables = (np.asarray(table, np.float32) for table in (offset, radius, level, np.zeros(n_entries)))
    return _Fibre(layer, math.cos(angle), math.sin(angle), *tables)


def _smooth_noise(rng: _Rng, n_entries: int, length_px: float) -> npt.NDArray[np.float64]:
    """Smooth noise of standard deviation 1 that changes over `length_px` pixels."""
    n_knots = max(4, int(n_entries / (_STEPS * length_px)) + 4)
    noise = ndimage.zoom(rng.standard_normal(n_knots), n_entries / n_knots, order=3, mode="nearest")
    return np.asarray(noise, np.float64)


def _wander(rng: _Rng, n_entries: int, diameter: float) -> npt.NDArray[np.float64]:
    """How a centre line leaves its axis (px): long bends and a little waviness."""
    bend = 1.2 * diameter * _smooth_noise(rng, n_entries, 24 * diameter)
    return bend + 0.12 * diameter * _smooth_noise(rng, n_entries, 7 * diameter)


def _clouds(rng: _Rng, shape: tuple[int, int], diameter: float) -> _F32:
    """Grey level of what lies below all fibres: dark, with a faint glow of fibres too deep to be seen."""
    coarse = rng.standard_normal([max(2, round(n / (3 * diameter))) for n in shape])
    zoom = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    return np.asarray(0.05 + 0.02 * ndimage.zoom(coarse, zoom, order=1, mode="nearest"), np.float32).clip(0)


# --- drawing --------------------------------------------------------------------------------------


def _render(scene: _Scene, edits: _Edits) -> tuple[_F32, npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Draw the noise-free image; also which fibre is seen in each pixel (-1: none) and which defect (0: none)."""
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
        entry = np.rint((along * _STEPS) + (fibre.offset.size - 1) / 2).astype(np.intp)
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
    canvas: _F32, near: npt.NDArray[np.intp], across: _F32, entry: npt.NDArray[np.intp], fibre: _Fibre, scene: _Scene
) -> _F32:
    """Draw a fibre over the canvas and return how much of each near pixel it covers, 0 to 1."""
    slope = np.gradient(fibre.offset) * _STEPS
    upright = np.asarray(1 / np.sqrt(1 + slope**2), np.float32)
    side = (across - fibre.offset[entry]) * upright[entry]
    radius, swell = fibre.radius[entry], fibre.swell[entry]
    away = np.abs(side)
    cover: _F32 = np.clip(radius - away + 0.5, 0, 1)
    side = np.clip(side / np.maximum(radius, 1), -1, 1)
    shadow = np.where(radius > 0, np.clip(1 - (away - radius) / np.float32(0.4 * scene.diameter), 0, 1), 0)
    square = side * side
    # secondary electrons leave more easily near an edge, and the side towards the detector is a little brighter
    lit = side * np.float32(fibre.cos * scene.light[0] - fibre.sin * scene.light[1])
    tube = 0.84 + 0.20 * square * square + 0.07 * lit
    ball = 1.0 + 0.10 * square * square * square + 0.10 * lit - 0.14 * (side - 0.3 * lit) ** 2
    value = fibre.level[entry] * (tube + swell * (ball - tube))
    canvas[near] *= 1 - 0.26 * shadow * shadow
    canvas[near] += 0.93 * cover * (value - canvas[near])
    return cover


def _draw_film(
    canvas: _F32, near: npt.NDArray[np.intp], across: _F32, along: _F32, entry: npt.NDArray[np.intp], film: _Film
) -> _F32:
    """Draw a film over the canvas and return how much of each near pixel it covers, 0 to 1."""
    low, width = film.low[entry], np.maximum(film.high[entry] - film.low[entry], 1)
    part = (across - low) / width
    inside = np.clip((0.5 - np.abs(part - 0.5)) * width + 0.5, 0, 1)
    # a free edge of a film is drawn in between its two holders
    place = along - film.middle - film.skew * (part - 0.5)
    reach = np.where(place < 0, film.reach[0], film.reach[1]) * (0.66 + 0.34 * np.abs(2 * part - 1) ** 1.7)
    to_edge = reach.astype(np.float32) - np.abs(place)
    cover: _F32 = inside * np.clip(to_edge + 0.5, 0, 1)
    sag = 4 * part * (1 - part)
    rim = np.clip(1 - np.abs(to_edge - 1.5) / 1.5, 0, 1)
    streak = film.streaks[np.clip((part * film.streaks.size).astype(np.intp), 0, film.streaks.size - 1)]
    value = film.level * (0.88 - 0.08 * sag + 0.05 * streak + 0.10 * rim * sag)
    canvas[near] += 0.95 * cover * (value - canvas[near])
    return cover


def _photograph(rng: _Rng, clean: _F32, noise: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """Add the noise of the electrons, of the read-out and of the scan, and round to bytes."""
    shot, read_out, line = noise
    grain = rng.standard_normal(clean.shape, np.float32)
    grain[:, 1:] += 0.35 * grain[:, :-1]  # the detector lags a little behind the beam
    lines = line * rng.standard_normal((clean.shape[0], 1), np.float32)
    noisy = clean + grain * np.sqrt(shot * np.maximum(clean, 0) + read_out**2) + lines
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


# --- defects --------------------------------------------------------------------------------------


def _with_defects(
    seed: int, scene: _Scene, normal: _F32, owner: npt.NDArray[np.int16], n_defects: int,
    kinds: Sequence[DefectKind], severity: tuple[float, float],
) -> tuple[_F32, npt.NDArray[np.uint8], tuple[DefectKind, ...]]:  # fmt: skip
    """Place defects where they can be seen; return the noise-free image, the defects' labels and their kinds."""
    attempts = dict.fromkeys(range(1, n_defects + 1), 0)
    smallest = 0.5 * scene.diameter**2
    while True:
        edits = _Edits()
        centres: list[tuple[float, float]] = []
        chosen: dict[int, DefectKind] = {}
        for number, attempt in attempts.items():
            rng = np.random.default_rng((seed, 2, number, attempt))
            chosen[number] = kinds[int(rng.integers(len(kinds)))]
            evident = float(rng.uniform(*severity))
            centres.append(_place(rng, scene, edits, owner, centres, number, chosen[number], evident))
        defective, _, claim = _render(scene, edits)
        labels = _truth(np.abs(defective - normal) > _TOLERANCE, claim, scene.diameter)
        areas = np.bincount(labels.ravel(), minlength=n_defects + 1)
        hidden = [number for number in attempts if areas[number] < smallest]
        if not hidden:
            break
        # another place for each, and after a few tries one defect fewer
        if attempts[hidden[0]] < 5:
            attempts |= {number: attempts[number] + 1 for number in hidden}
        else:
            del attempts[hidden[0]]
    dense = np.zeros(n_defects + 1, np.uint8)
    dense[list(attempts)] = np.arange(1, len(attempts) + 1)
    return np.where(labels > 0, defective, normal), dense[labels], tuple(chosen.values())


def _truth(changed: npt.NDArray[np.bool_], claim: npt.NDArray[np.uint8], diameter: float) -> npt.NDArray[np.uint8]:
    """Give each changed or claimed pixel the number of the defect that it belongs to, and all others 0."""
    # slits between changed pixels are closed, as a person would outline the defect
    slit = 0.25 * diameter
    whole = changed | (claim > 0)
    grown = ndimage.distance_transform_edt(~whole) <= slit
    whole |= ndimage.binary_fill_holes(ndimage.distance_transform_edt(grown) > slit)
    # specks, where a shadow's rim just passes the tolerance, are undone and not called defects
    parts, n_parts = ndimage.label(whole, np.ones((3, 3)))
    keep = np.bincount(parts[claim > 0], minlength=n_parts + 1) >= 0.25 * diameter**2
    keep[0] = False
    if not keep.any():
        return np.zeros_like(claim)
    nearest = ndimage.distance_transform_edt(claim == 0, return_distances=False, return_indices=True)
    return np.where(keep[parts], claim[tuple(nearest)], 0).astype(np.uint8)


def _place(
    rng: _Rng, scene: _Scene, edits: _Edits, owner: npt.NDArray[np.int16], taken: list[tuple[float, float]],
    number: int, kind: DefectKind, evident: float,
) -> tuple[float, float]:  # fmt: skip
    """Choose a fibre (or a pair) and a place on it that is in view and away from other defects, and edit it."""
    m, n = scene.shape
    # the topmost layer three times as often as the one below it
    top = [i for i, fibre in enumerate(scene.fibres) for _ in range((0, 0, 0, 1, 3)[fibre.layer])]
    pairs = [pair for pair in scene.pairs if scene.fibres[pair[0]].layer >= 3] or list(scene.pairs)
    best: tuple[float, int, int, int, tuple[float, float]] | None = None
    for _ in range(60):
        first, second = (
            pairs[int(rng.integers(len(pairs)))] if kind == "merged" else (top[int(rng.integers(len(top)))],) * 2
        )
        fibre = scene.fibres[first]
        middle = int(rng.integers(fibre.offset.size))
        step = int(_STEPS * scene.diameter)
        entries = np.clip(middle + np.arange(-step, step + 1, _STEPS), 0, fibre.offset.size - 1)
        across = (0.5 * (fibre.offset + scene.fibres[second].offset))[entries]
        along = (entries - (fibre.offset.size - 1) / 2) / _STEPS
        row = across * fibre.cos + along * fibre.sin + (m - 1) / 2
        col = along * fibre.cos - across * fibre.sin + (n - 1) / 2
        inner = (row >= 0) & (row <= m - 1) & (col >= 0) & (col <= n - 1)
        seen = owner[np.clip(np.rint(row), 0, m - 1).astype(int), np.clip(np.rint(col), 0, n - 1).astype(int)]
        free = (seen >= first if kind == "merged" else seen == first) & inner
        if kind == "merged":  # what lies between the pair is usually the layer below
            free = (seen <= second) & inner
            gap = abs(float((fibre.offset - scene.fibres[second].offset)[middle])) / scene.diameter
            free &= 1.0 <= gap <= 2.6
        centre = (float(row[step // 2]), float(col[step // 2]))
        lonely = min((math.dist(centre, other) for other in taken), default=math.inf) > 8 * scene.diameter
        edge = min(centre[0], centre[1], m - 1 - centre[0], n - 1 - centre[1]) > 2 * scene.diameter
        merit = float(free.mean()) + 0.5 * lonely + 0.8 * edge
        if best is None or merit > best[0]:
            best = (merit, first, second, middle, centre)
        if merit > 2.2:
            break
    assert best is not None
    _, first, second, middle, centre = best
    if kind == "merged":
        for one, other in scene.pairs:
            apart = abs(float((scene.fibres[one].offset - scene.fibres[other].offset)[middle])) / scene.diameter
            if one == first and (other == second or 0.6 < apart < 2.6):
                film = _film(rng, scene, one, other, middle, evident)
                edits.films.setdefault(other, []).append((number, film))
        return centre
    make = _bead if kind == "bead" else _break
    edited, start, stop = make(rng, edits.fibres.get(first, scene.fibres[first]), middle, evident)
    edits.fibres[first] = edited
    edits.spans.setdefault(first, []).append((number, start, stop))
    return centre


def _bead(rng: _Rng, fibre: _Fibre, middle: int, evident: float) -> tuple[_Fibre, int, int]:
    """Swell a fibre into a spindle or a ball."""
    radius = float(np.median(fibre.radius[fibre.radius > 0]))
    factor = 1.55 + 1.35 * evident + float(rng.uniform(0, 0.25))
    half = radius * factor * float(rng.choice([1.15, 2.0, 2.8])) * float(rng.uniform(0.9, 1.1)) * _STEPS
    place = (np.arange(fibre.radius.size) - middle) / half
    dome = np.clip(1 - place**2, 0, 1)
    shape = np.sqrt(dome) if half < 1.6 * radius * factor * _STEPS else dome**1.5
    shape = ndimage.gaussian_filter1d(shape, 0.35 * radius * _STEPS)
    swollen = fibre.radius * (1 + (factor - 1) * shape / shape.max())
    lean = float(rng.uniform(-0.25, 0.25)) * radius * (factor - 1)
    bright = 1 + (0.03 + 0.09 * evident) * shape
    edited = replace(
        fibre,
        radius=np.where(fibre.radius > 0, swollen, fibre.radius).astype(np.float32),
        offset=(fibre.offset + lean * shape).astype(np.float32),
        level=(fibre.level * bright).astype(np.float32),
        swell=np.maximum(fibre.swell, shape).astype(np.float32),
    )
    return edited, *_span((edited.radius > 1.12 * fibre.radius) & (fibre.radius > 0))


def _break(rng: _Rng, fibre: _Fibre, middle: int, evident: float) -> tuple[_Fibre, int, int]:
    """Cut a fibre: a gap between two round ends that bend away and may carry a blob."""
    radius = float(np.median(fibre.radius[fibre.radius > 0]))
    half = 0.5 * radius * (2.6 + 5.5 * evident + float(rng.uniform(0, 1)))
    along = (np.arange(fibre.radius.size) - middle) / _STEPS
    cut, offset, bright = fibre.radius.copy(), fibre.offset.copy(), fibre.level.copy()
    for side in (-1, 1):
        stub = side * along - half  # pixels from this stub's tip, growing into the stub
        here = side * along >= 0
        bend = np.clip(1 - stub / (radius * float(rng.uniform(4, 8))), 0, 1.3) ** 2
        offset += (here * bend * radius * float(rng.uniform(-1.6, 1.6)) * (0.4 + 0.6 * evident)).astype(np.float32)
        blob = float(rng.choice([0.0, 0.25, 0.6])) * (0.5 + 0.5 * evident)
        tip = radius * (1 + blob)
        wide = cut * (1 + blob * np.clip(1 - ((stub - tip) / (2.2 * tip)) ** 2, 0, 1) ** 2)
        inward = np.clip(stub / tip, 0, 1)
        rounded = wide * np.sqrt(inward * (2 - inward))
        cut = np.where(here, np.where(stub <= 0, -1, rounded), cut)
        bright *= 1 + 0.10 * here * np.clip(1 - np.abs(stub) / (2 * radius), 0, 1).astype(np.float32)
    edited = replace(fibre, radius=cut.astype(np.float32), offset=offset, level=bright)
    near = np.abs(along) <= half + 2 * radius
    return edited, *_span(near & (fibre.radius > 0) & (cut < 0.9 * np.minimum(fibre.radius, radius)))


def _span(here: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return the range of entries from the first to the last that is true."""
    entries = np.flatnonzero(here)
    return (int(entries[0]), int(entries[-1]) + 1) if entries.size else (0, 0)


def _film(rng: _Rng, scene: _Scene, first: int, second: int, middle: int, evident: float) -> _Film:
    """Hang a film between two fibres that share an axis."""
    one, other = scene.fibres[first], scene.fibres[second]
    half = 0.5 * scene.diameter * (2.6 + 6.5 * evident + float(rng.uniform(0, 1)))
    streaks = ndimage.gaussian_filter1d(rng.standard_normal(64), 3, mode="wrap")
    return _Film(
        low=np.minimum(one.offset, other.offset),
        high=np.maximum(one.offset, other.offset),
        middle=(middle - (one.offset.size - 1) / 2) / _STEPS,
        reach=(half * float(rng.uniform(0.75, 1.25)), half * float(rng.uniform(0.75, 1.25))),
        skew=float(rng.normal(0, 0.8)) * scene.diameter,
        level=float(0.5 * (one.level[middle] + other.level[middle])),
        streaks=np.asarray(streaks / np.abs(streaks).max(), np.float32),
    )


# --- small helpers --------------------------------------------------------------------------------


def _field_seed(seed: int, group: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, group, index)).generate_state(1)[0])


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, image, check_contrast=False)


def _check(
    seed: int, shape: tuple[int, int], defects: int, kinds: Sequence[str], severity: tuple[float, float],
    diameter: float,
) -> None:  # fmt: skip
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, not {seed}")
    if not 4 <= diameter <= 40:
        raise ConfigError(f"diameter_px must be from 4 to 40, not {diameter}")
    if len(shape) != 2 or min(shape) < 12 * diameter:
        raise ConfigError(f"shape must be (rows, columns), each at least {12 * diameter:g} pixels, not {shape}")
    if not 0 <= defects <= 20:
        raise ConfigError(f"defects must be from 0 to 20, not {defects}")
    if not kinds or set(kinds) - set(get_args(DefectKind)):
        raise ConfigError(f"kinds must be some of {', '.join(get_args(DefectKind))}, not {tuple(kinds)}")
    if not 0 <= severity[0] <= severity[1] <= 1:
        raise ConfigError(f"severity must be (low, high) with 0 <= low <= high <= 1, not {severity}")
