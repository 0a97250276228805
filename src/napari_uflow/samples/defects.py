"""Defects of fibres: beads, breaks and webs, and the mask of the pixels that they change."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_uflow.samples.drawing import render
from napari_uflow.samples.scene import STEPS, Edits, Fibre, Film, Float32, Rng, Scene

__all__ = ["DefectKind", "add_defects"]

DefectKind = Literal["bead", "broken", "merged"]

_TOLERANCE = 2.0
"""Change in grey levels (of 255, before noise) from which a pixel belongs to a defect."""


def add_defects(
    seed: int, scene: Scene, normal: Float32, owner: npt.NDArray[np.int16], n_defects: int,
    kinds: Sequence[DefectKind], severity: tuple[float, float],
) -> tuple[Float32, npt.NDArray[np.uint8], tuple[DefectKind, ...]]:  # fmt: skip
    """Place defects at visible positions.

    Returns
    -------
    image : (M, N) array, float32
        Grey levels before noise, equal to `normal` outside the defects.
    labels : (M, N) array, uint8
        Number of the defect, 0 outside.
    kinds : tuple of str
        Kind of each defect.
    """
    attempts = dict.fromkeys(range(1, n_defects + 1), 0)
    smallest = 0.5 * scene.diameter**2
    while True:
        edits = Edits()
        centres: list[tuple[float, float]] = []
        chosen: dict[int, DefectKind] = {}
        for number, attempt in attempts.items():
            rng = np.random.default_rng((seed, 2, number, attempt))
            chosen[number] = kinds[int(rng.integers(len(kinds)))]
            evident = float(rng.uniform(*severity))
            centres.append(_place(rng, scene, edits, owner, centres, number, chosen[number], evident))
        defective, _, claim = render(scene, edits)
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
    """Label each changed or claimed pixel with the number of its defect, all others with 0."""
    # slits between changed pixels are closed, as a person would outline the defect
    slit = 0.25 * diameter
    whole = changed | (claim > 0)
    grown = ndimage.distance_transform_edt(~whole) <= slit
    whole |= ndimage.binary_fill_holes(ndimage.distance_transform_edt(grown) > slit)
    # specks, such as a shadow's rim just above the tolerance, are undone and not labelled
    parts, n_parts = ndimage.label(whole, np.ones((3, 3)))
    keep = np.bincount(parts[claim > 0], minlength=n_parts + 1) >= 0.25 * diameter**2
    keep[0] = False
    if not keep.any():
        return np.zeros_like(claim)
    nearest = ndimage.distance_transform_edt(claim == 0, return_distances=False, return_indices=True)
    return np.where(keep[parts], claim[tuple(nearest)], 0).astype(np.uint8)


def _place(
    rng: Rng, scene: Scene, edits: Edits, owner: npt.NDArray[np.int16], taken: list[tuple[float, float]],
    number: int, kind: DefectKind, evident: float,
) -> tuple[float, float]:  # fmt: skip
    """Choose a fibre (or a pair) and a visible place on it away from other defects, and edit it; return the centre."""
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
        step = int(STEPS * scene.diameter)
        entries = np.clip(middle + np.arange(-step, step + 1, STEPS), 0, fibre.offset.size - 1)
        across = (0.5 * (fibre.offset + scene.fibres[second].offset))[entries]
        along = (entries - (fibre.offset.size - 1) / 2) / STEPS
        row = across * fibre.cos + along * fibre.sin + (m - 1) / 2
        col = along * fibre.cos - across * fibre.sin + (n - 1) / 2
        inner = (row >= 0) & (row <= m - 1) & (col >= 0) & (col <= n - 1)
        seen = owner[np.clip(np.rint(row), 0, m - 1).astype(int), np.clip(np.rint(col), 0, n - 1).astype(int)]
        free = (seen >= first if kind == "merged" else seen == first) & inner
        if kind == "merged":  # the layer below is usually visible between the pair
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


def _bead(rng: Rng, fibre: Fibre, middle: int, evident: float) -> tuple[Fibre, int, int]:
    """Swell a fibre into a spindle or a ball."""
    radius = float(np.median(fibre.radius[fibre.radius > 0]))
    factor = 1.55 + 1.35 * evident + float(rng.uniform(0, 0.25))
    half = radius * factor * float(rng.choice([1.15, 2.0, 2.8])) * float(rng.uniform(0.9, 1.1)) * STEPS
    place = (np.arange(fibre.radius.size) - middle) / half
    dome = np.clip(1 - place**2, 0, 1)
    shape = np.sqrt(dome) if half < 1.6 * radius * factor * STEPS else dome**1.5
    shape = ndimage.gaussian_filter1d(shape, 0.35 * radius * STEPS)
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


def _break(rng: Rng, fibre: Fibre, middle: int, evident: float) -> tuple[Fibre, int, int]:
    """Cut a fibre: a gap between two round ends that bend away and may carry a blob."""
    radius = float(np.median(fibre.radius[fibre.radius > 0]))
    half = 0.5 * radius * (2.6 + 5.5 * evident + float(rng.uniform(0, 1)))
    along = (np.arange(fibre.radius.size) - middle) / STEPS
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


def _film(rng: Rng, scene: Scene, first: int, second: int, middle: int, evident: float) -> Film:
    """Return a film between two fibres that share an axis."""
    one, other = scene.fibres[first], scene.fibres[second]
    half = 0.5 * scene.diameter * (2.6 + 6.5 * evident + float(rng.uniform(0, 1)))
    streaks = ndimage.gaussian_filter1d(rng.standard_normal(64), 3, mode="wrap")
    return Film(
        low=np.minimum(one.offset, other.offset),
        high=np.maximum(one.offset, other.offset),
        middle=(middle - (one.offset.size - 1) / 2) / STEPS,
        reach=(half * float(rng.uniform(0.75, 1.25)), half * float(rng.uniform(0.75, 1.25))),
        skew=float(rng.normal(0, 0.8)) * scene.diameter,
        level=float(0.5 * (one.level[middle] + other.level[middle])),
        streaks=np.asarray(streaks / np.abs(streaks).max(), np.float32),
    )
