"""Planted defects on which a training is judged: where likelihood and detection disagree, detection counts.

A better likelihood of held-out images does not mean better detection: a flow also learns what makes unusual features
likely. Defects are therefore planted into normal images, at the level of their own pixels, so that candidates of any
magnification are compared on the same ones. The features are computed once; the couplings of joint levels see single
positions, so that only those of whole normal tiles and those of the defects are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_uflow.config import EvidenceName
from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.image.planting import DefectQueue, draw_plans
from napari_uflow.image.region import NormalRegion, sample_windows
from napari_uflow.image.scaled import scale_of, scaled_regions
from napari_uflow.model.classes import ClassScale, border_classes
from napari_uflow.model.energy import joint_energy
from napari_uflow.model.info import JOINT_STRIDE
from napari_uflow.model.memory import key_of
from napari_uflow.model.uflow import MARGIN, UFlow
from napari_uflow.progress import Chunks, Steps, run_chunks
from napari_uflow.training.cache import CachedTile, FeatureCache, Origin
from napari_uflow.training.evidence import memory_keys
from napari_uflow.training.features import fill_cache, in_reading_order
from napari_uflow.training.merit import Maxima
from napari_uflow.training.tiles import Split, TrainingTile

__all__ = [
    "PLANTED_SIDE",
    "Likelihoods",
    "PlantedFeatures",
    "PlantedSet",
    "Source",
    "best_evidence",
    "planted_set",
    "sources_of",
]

PLANTED_SIDE = 256
"""Largest side of a part of a normal image that defects are planted into, in its pixels."""

_MOST_SOURCES = 24
_MOST_DEFECTS = 84  # twelve of each kind
# A merit of fewer says nothing.
_FEWEST_SOURCES, _FEWEST_DEFECTS = 4, 12
# Held-out specimens, and parts of their images, from which no training tile is needed.
_FEWEST_HELD_OUT, _FEWEST_PARTS = 3, 8
# Normal pixels per defect of one image, and pixels between two defects.
_PIXELS_PER_DEFECT, _BETWEEN = 16_000, 32
# Pixels around a defect in which evidence belongs to it, as for a detection.
_AROUND = 8
# Positions that pass the flow together.
_TOGETHER = 16_384
_LARGEST_EVIDENCE = 1e6


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Part of a normal image, in memory, that defects are planted into.

    Attributes
    ----------
    values : (C, m, n) array, float32
        Pixels.
    normal : (m, n) array, bool
        True in pixels that may be changed.
    dtype : dtype
        Type of the pixels of the image.
    plane : Plane
        The image.
    window : Window
        The part, in pixels of the image.
    specimen : str
        Specimen of the image.
    key : int or None
        Key of the vectors of the memory that it must not be compared with; None if there are none.
    ratio : float
        Magnification of the image over that of the model, which differs if its pixels have another size.
    """

    values: NDArray[np.float32]
    normal: NDArray[np.bool_]
    dtype: np.dtype[Any]
    plane: Plane
    window: Window
    specimen: str
    key: int | None = None
    ratio: float = 1.0

    @property
    def cost(self) -> int:
        """Pixels that the backbone sees, at magnification 1 of the model."""
        return _cost(self.window, self.ratio)

    @property
    def n_defects(self) -> int:
        """Defects to plant at a time."""
        return max(1, round(np.count_nonzero(self.normal) / _PIXELS_PER_DEFECT))

    def region(self, values: NDArray[np.float32]) -> NormalRegion:
        """Return an image with these pixels, as large as the part."""
        return NormalRegion(Plane(data=values, axes="CYX", name=self.plane.title), self.normal, self.specimen)


@dataclass(frozen=True, eq=False)
class _Copy:
    """A source with planted defects: pixels, labels from 1, and the number of the source."""

    source: int
    values: NDArray[np.float32]
    labels: NDArray[np.int32]
    n_defects: int


@dataclass(frozen=True, eq=False)
class PlantedSet:
    """Parts of normal images, and copies of them with planted defects.

    Attributes
    ----------
    sources : tuple of Source
        The normal images.
    copies : tuple
        Their copies with defects.
    """

    sources: tuple[Source, ...]
    copies: tuple[_Copy, ...]

    @property
    def n_defects(self) -> int:
        """Number of planted defects."""
        return sum(copy.n_defects for copy in self.copies)


def sources_of(
    regions: Sequence[NormalRegion],
    working: Sequence[NormalRegion],
    split: Split,
    network: UFlow,
    rng: np.random.Generator,
    *,
    min_normal: float,
    most_pixels: float,
) -> list[Source]:
    """Choose parts of normal images to plant defects into: held-out ones, of the specimens in turn.

    With fewer than three held-out specimens, or eight parts of their images, tiles that the network is trained on join
    them.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions of the training.
    working : sequence of NormalRegion
        The same regions in the same order as the network sees them, each at its magnification.
    split : Split
        Tiles of the training, of `working`.
    network : UFlow
        The network, with its magnification.
    rng : Generator
        Draws the parts.
    min_normal : float
        Smallest fraction, 0 to 1, of normal pixels.
    most_pixels : float
        Largest number of pixels for the backbone at magnification 1 of the model; a single part may have more.

    Returns
    -------
    list of Source
    """
    marked = [region for region in regions if region.is_marked_normal]
    candidates: list[tuple[NormalRegion, Window, int | None]] = []
    if split.is_divided_by_place:
        candidates += [(*place, None) for place in _in_images(split.holdout, regions, working)]
    else:
        held = [r for r in dict.fromkeys(regions) if r.specimen in split.holdout_specimens and not r.is_marked_normal]
        most = math.ceil(_MOST_SOURCES / max(len(held), 1))
        for region in held:
            options = {"align": 1, "min_normal": min_normal, "max_windows": most, "rng": rng}
            windows = sample_windows(region, PLANTED_SIDE, **options)  # type: ignore[arg-type]
            candidates += [(region, window, key_of(region.specimen)) for window in windows]
    candidates = _in_turn(candidates, rng)
    if len(split.holdout_specimens) < _FEWEST_HELD_OUT or len(candidates) < _FEWEST_PARTS:
        ordered = in_reading_order(split.train, network)
        origins = [Origin(t.region.specimen, i, t.region.is_marked_normal) for i, t in enumerate(ordered)]
        keys = memory_keys(origins, split.holdout_specimens)
        places = _in_images(ordered, regions, working)
        of_train = zip(ordered, places, keys, strict=True)
        candidates += _in_turn([(*at, key) for tile, at, key in of_train if not tile.region.is_marked_normal], rng)
    seen = dict(zip(regions, working, strict=True))
    chosen: list[Source] = []
    n_pixels = 0
    for region, window, key in candidates:
        ratio = _magnification(region, seen[region]) / (network.config.magnification or 1.0)
        n_pixels += _cost(window, ratio)
        if (chosen and n_pixels > most_pixels) or len(chosen) == _MOST_SOURCES:
            break
        values, normal = region.without(marked).read(window)
        if normal.any():
            chosen.append(
                Source(
                    values=values,
                    normal=normal,
                    dtype=np.dtype(region.plane.data.dtype),
                    plane=region.plane,
                    window=window,
                    specimen=region.specimen,
                    key=key,
                    ratio=ratio,
                )
            )
    return chosen


def _cost(window: Window, ratio: float) -> int:
    rows, cols = (math.ceil(size * ratio) + 2 * MARGIN for size in window.shape)
    return rows * cols


def _magnification(region: NormalRegion, working: NormalRegion) -> float:
    """Return the magnification of a region as the network sees it."""
    return 1.0 if working.plane is region.plane else scale_of(working.plane)


def _in_images(
    tiles: Sequence[TrainingTile], regions: Sequence[NormalRegion], working: Sequence[NormalRegion]
) -> list[tuple[NormalRegion, Window]]:
    """Return the region of each tile in its image, and the middle of the tile in pixels of the image."""
    given = {id(of): region for of, region in zip(working, regions, strict=True)}
    places = []
    for tile in tiles:
        region = given[id(tile.region_given)]
        magnification = _magnification(region, tile.region)
        inside = tile.window.clipped(tile.region.plane.shape)
        spans = []
        for start, stop in ((inside.row, inside.stop_row), (inside.col, inside.stop_col)):
            first = math.ceil(start / magnification)
            last = max(math.floor(stop / magnification), first + 1)
            extra = max(0, last - first - PLANTED_SIDE)
            spans.append((first + extra // 2, min(last - first, PLANTED_SIDE)))
        (row, height), (col, width) = spans
        places.append((region, Window(row, col, height, width).clipped(region.plane.shape)))
    return places


def _in_turn(
    candidates: Sequence[tuple[NormalRegion, Window, int | None]], rng: np.random.Generator
) -> list[tuple[NormalRegion, Window, int | None]]:
    """Shuffle and let the specimens take turns; a part that was given several times counts once."""
    by_specimen: dict[str, list[tuple[NormalRegion, Window, int | None]]] = {}
    seen: set[tuple[int, int, Window]] = set()
    for i in rng.permutation(len(candidates)):
        region, window, _ = candidates[int(i)]
        part = (id(region.plane), id(region.mask), window)  # images may have several regions
        if part not in seen:
            seen.add(part)
            by_specimen.setdefault(region.specimen, []).append(candidates[int(i)])
    return [item for turn in zip_longest(*by_specimen.values()) for item in turn if item is not None]


def planted_set(
    sources: Sequence[Source], span: Sequence[float], seed: int, *, most_pixels: float = math.inf
) -> PlantedSet | None:
    """Plant defects of all kinds, 4 to 64 pixels large and of contrasts from .05 to .6, into copies of normal images.

    Parameters
    ----------
    sources : sequence of Source
        The normal images; each is used several times, with other defects, as long as defects are wanted.
    span : sequence of float
        Normal intensity range of each channel, above 0.
    seed : int
        Seed of the defects.
    most_pixels : float
        Largest number of pixels for the backbone at magnification 1, of the sources and their copies.

    Returns
    -------
    PlantedSet or None
        None if there would be fewer than 4 sources or 12 defects.
    """
    if len(sources) < _FEWEST_SOURCES:
        return None
    n_pixels = sum(source.cost for source in sources)
    mean_cost, mean_defects = n_pixels / len(sources), float(np.mean([source.n_defects for source in sources]))
    if (most_pixels - n_pixels) / mean_cost * mean_defects < _FEWEST_DEFECTS:
        return None
    plans = draw_plans(_MOST_DEFECTS, seed=seed)
    queue = DefectQueue(plans, seed)
    copies: list[_Copy] = []
    n_idle = 0
    while queue and n_idle < len(sources):
        turn = queue.turn % len(sources)
        source = sources[turn]
        n_pixels += source.cost
        if n_pixels > most_pixels:
            break
        planted = queue.plant(
            source.values,
            source.n_defects,
            span=span,
            donors=[other.values for other in sources if other is not source],
            normal=source.normal,
            dtype=source.dtype,
            margin=_BETWEEN,
        )
        n_idle = 0 if planted.defects else n_idle + 1
        if planted.defects:
            copies.append(_Copy(turn, planted.values, planted.labels, len(planted.defects)))
    found = PlantedSet(tuple(sources), tuple(copies))
    return found if found.n_defects >= _FEWEST_DEFECTS else None


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """Energies of joint levels, of the normal positions and of those of the defects: each (N,), float64."""

    normal: NDArray[np.float64]
    planted: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Positions:
    """Positions of several tiles: what of them does not change while the flow is trained.

    Attributes
    ----------
    features : Tensor (N, C), float16
        Normalised features.
    distances : (N, APERTURES) array, float64
        Distances from the memory.
    classes : (N,) array, int64
        Border classes.
    owner : (N,) array, int64
        Number of the tile, or of the defect.
    """

    features: Tensor
    distances: NDArray[np.float64]
    classes: NDArray[np.int64]
    owner: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[_Positions]) -> _Positions:
        """Join the positions of several tiles."""
        return cls(
            features=torch.cat([part.features for part in parts]),
            distances=np.concatenate([part.distances for part in parts]),
            classes=np.concatenate([part.classes for part in parts]),
            owner=np.concatenate([part.owner for part in parts]),
        )


class PlantedFeatures:
    """Features of normal tiles and of planted defects, at one magnification, for any weights of the flow.

    Attributes
    ----------
    n_defects, n_tiles : int
        Planted defects, and normal tiles.
    """

    def __init__(self, normal: _Positions, planted: _Positions, tiles: NDArray[np.int64], *, has_memory: bool):
        self._normal, self._planted, self._tiles, self._has_memory = normal, planted, tiles, has_memory
        of_apertures = zip(normal.distances.T, planted.distances.T, strict=True)
        self._scaled_distances = [self._scaled(*distances) for distances in of_apertures]

    @property
    def n_defects(self) -> int:
        """Number of planted defects."""
        return len(self._tiles)

    @property
    def n_tiles(self) -> int:
        """Number of normal tiles."""
        return int(self._normal.owner.max()) + 1

    @classmethod
    def compute_steps(
        cls, network: UFlow, planted: PlantedSet, intensity: IntensityRange, phase: str
    ) -> Steps[PlantedFeatures | None]:
        """Compute the features; the normalisation and the memory of the network are final.

        Parameters
        ----------
        network : UFlow
            Network with joint levels.
        planted : PlantedSet
            Images with and without defects.
        intensity : IntensityRange
            Brightness range of the model.
        phase : str
            Name of the phase in the progress events.

        Returns
        -------
        PlantedFeatures or None
            None if too few tiles or defects have a position at this magnification.
        """
        of_copies = [planted.sources[copy.source] for copy in planted.copies]
        originals = [source.region(source.values) for source in planted.sources]
        originals += [of.region(copy.values) for of, copy in zip(of_copies, planted.copies, strict=True)]
        magnifications = [network.config.magnification * of.ratio for of in (*planted.sources, *of_copies)]
        regions = scaled_regions(originals, magnifications)
        tiles = [TrainingTile(region, _whole(region, network.align)) for region in regions]
        normal: list[_Positions] = []
        defects: list[_Positions] = []
        of_defect: list[int] = []
        with FeatureCache(math.inf) as cache:
            yield from fill_cache(cache, network, tiles, intensity, 1, phase)
            cache.apply_border(network.border, network.strides)
            for i in range(len(cache)):
                copy = None if i < len(planted.sources) else planted.copies[i - len(planted.sources)]
                source = i if copy is None else copy.source
                key = planted.sources[source].key
                if copy is None:
                    at = np.flatnonzero(cache[i].is_normal[0].numpy())
                    owner = np.full(len(at), source)
                    target = normal
                else:
                    owner, at = _positions(copy.labels, magnifications[i], cache[i].shape)
                    owner = owner - 1 + len(of_defect)
                    of_defect += [source] * copy.n_defects
                    target = defects
                target.append(run_chunks(_kept(network, cache[i], at, owner, key)))
        has_memory = len(network.memory) > 0
        return cls._complete(_Positions.joined(normal), _Positions.joined(defects), of_defect, has_memory=has_memory)

    @classmethod
    def _complete(
        cls, normal: _Positions, planted: _Positions, of_defect: Sequence[int], *, has_memory: bool
    ) -> PlantedFeatures | None:
        """Leave out tiles and defects without a position, and number the others anew."""
        tiles, owner = np.unique(normal.owner, return_inverse=True)
        new = np.full(max(of_defect, default=0) + 1, -1)
        new[tiles[tiles < len(new)]] = np.flatnonzero(tiles < len(new))
        at = new[np.asarray(of_defect, dtype=np.int64)[planted.owner]] >= 0
        defects, planted_owner = np.unique(planted.owner[at], return_inverse=True)
        if len(tiles) < _FEWEST_SOURCES or len(defects) < _FEWEST_DEFECTS:
            return None
        kept = _Positions(
            features=planted.features[torch.from_numpy(at)],
            distances=planted.distances[at],
            classes=planted.classes[at],
            owner=planted_owner,
        )
        whole = _Positions(features=normal.features, distances=normal.distances, classes=normal.classes, owner=owner)
        return cls(whole, kept, new[np.asarray(of_defect)[defects]], has_memory=has_memory)

    @torch.no_grad()
    def likelihoods(self, network: UFlow) -> Likelihoods:
        """Compute the energies of all positions with the present weights of the flow."""
        return Likelihoods(*(_energies(network, part.features) for part in (self._normal, self._planted)))

    def maxima(self, likelihoods: Likelihoods, evidence: str) -> Maxima:
        """Return the maxima of a kind of evidence, as in :class:`~napari_uflow.config.ModelConfig`.

        The scale of each kind is fitted to the normal tiles, which the flow has mostly not been trained on. An empty
        memory is no part of the evidence.
        """
        kinds = []
        if evidence != "memory" or not self._has_memory:
            kinds.append(self._scaled(likelihoods.normal, likelihoods.planted))
        if evidence != "likelihood" and self._has_memory:
            kinds += self._scaled_distances
        normal, planted = (
            np.nan_to_num(np.mean([kind[i] for kind in kinds], axis=0), nan=_LARGEST_EVIDENCE, posinf=_LARGEST_EVIDENCE)
            for i in range(2)
        )
        return Maxima(
            _maxima(planted, self._planted.owner, self.n_defects),
            _maxima(normal, self._normal.owner, self.n_tiles),
            self._tiles,
        )

    def _scaled(
        self, normal: NDArray[np.float64], planted: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = ClassScale(1)
        scale.fit(0, [normal.astype(np.float32)], [self._normal.classes])
        scaled = []
        for values, positions in ((normal, self._normal), (planted, self._planted)):
            median, width = (x[0].numpy(force=True)[positions.classes] for x in (scale.median, scale.width))
            scaled.append((values - median) / width)
        return scaled[0], scaled[1]


def best_evidence(features: PlantedFeatures, likelihoods: Likelihoods) -> EvidenceName:
    """Return the kinds of evidence to use: both, unless one alone is better by more than two standard errors.

    Parameters
    ----------
    features : PlantedFeatures
        Planted defects.
    likelihoods : Likelihoods
        Those of the trained flow.
    """
    both = features.maxima(likelihoods, "likelihood+memory")
    alone: dict[EvidenceName, Maxima] = {
        "likelihood": features.maxima(likelihoods, "likelihood"),
        "memory": features.maxima(likelihoods, "memory"),
    }
    better = [name for name, maxima in alone.items() if maxima.versus(both).is_clear]
    return max(better, key=lambda name: alone[name].merit, default="likelihood+memory")


def _whole(region: NormalRegion, align: int) -> Window:
    rows, cols = (-(-size // align) * align for size in region.plane.shape)
    return Window(0, 0, rows, cols)


def _positions(
    labels: NDArray[np.int32], magnification: float, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels and the positions (flat) of the defects; a position may belong to several."""
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    rows, cols = np.nonzero(distance <= _AROUND)
    label = labels[nearest[0][rows, cols], nearest[1][rows, cols]]
    row, col = (((at + 0.5) * magnification / JOINT_STRIDE).astype(np.int64) for at in (rows, cols))
    pairs = np.unique(
        np.stack([label, np.minimum(row, shape[0] - 1) * shape[1] + np.minimum(col, shape[1] - 1)]), axis=1
    )
    return pairs[0].astype(np.int64), pairs[1].astype(np.int64)


@torch.no_grad()
def _kept(
    network: UFlow, tile: CachedTile, at: NDArray[np.int64], owner: NDArray[np.int64], key: int | None
) -> Chunks[_Positions]:
    """Return some positions of a tile."""
    raw = tile.features[0][None].to(network.device).float()
    index = torch.from_numpy(at).to(network.device)
    largest = torch.finfo(torch.float16).max
    normalised = network.norm.level(0, network.of_flow((raw,))[0])[0].flatten(1)[:, index].T.clamp(-largest, largest)
    with network.memory.without(key):
        distances = yield from network.memory.distance_in_chunks(raw[0].flatten(1)[:, index][None, :, :, None])
    return _Positions(
        features=normalised.to(torch.float16).contiguous(),
        distances=distances[0, :, :, 0].T.cpu().numpy().astype(np.float64),
        classes=border_classes(tile.shape, tile.frame, JOINT_STRIDE).ravel()[at],
        owner=owner,
    )


def _energies(network: UFlow, features: Tensor) -> NDArray[np.float64]:
    parts = []
    for part in torch.split(features, _TOGETHER):
        latents = run_chunks(network.flow.chunks((part.float().T[None, :, :, None].contiguous(),)))
        parts.append(joint_energy(latents.z[0], latents.ln_det[0]).flatten().cpu())
    return torch.cat(parts).numpy().astype(np.float64)


def _maxima(values: NDArray[np.float64], owner: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    highest = np.full(n, -np.inf)
    np.maximum.at(highest, owner, values)
    return highest
