"""The choice of the magnification by planted defects, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Message, Steps, or_stop
from napari_uflow.training.cache import FeatureCaches
from napari_uflow.training.evidence import evidence_steps
from napari_uflow.training.features import fill_cache
from napari_uflow.training.merit import Maxima
from napari_uflow.training.normalise import normalise_steps
from napari_uflow.training.pixel_size import working_regions
from napari_uflow.training.planted import PLANTED_SIDE, PlantedFeatures, PlantedSet, Source, planted_set, sources_of
from napari_uflow.training.tiles import TrainingTile, choose_tiles, regions_of
from napari_uflow.wording import counted

__all__ = ["chosen_magnification", "magnification_steps"]

_CANDIDATES = (1.0, 2.0, 0.5)
_MOST_TILES = 40
# Pixels of the images with and without defects, at magnification 1.
_MOST_PIXELS = 5e6


def magnification_steps(
    network: UFlow,
    regions: Sequence[NormalRegion],
    model: ModelConfig,
    training: TrainingConfig,
    pixel_size: PixelSize | None = None,
) -> Steps[float]:
    """Choose the magnification of a new network: 1, 2 or 0.5.

    At each one, the untrained model (a Gaussian and the memory) of at most 40 tiles is judged on the same planted
    defects. The images with planted defects have no part in any of them. 0.5 is for images of 256 pixels or more.

    Parameters
    ----------
    network : UFlow
        New network with joint levels, its backbone loaded; not changed.
    regions : sequence of NormalRegion
        Regions of the training.
    model : ModelConfig
        Parts of the model.
    training : TrainingConfig
        Parameters of the training.
    pixel_size : PixelSize, optional
        Pixel size that the images of the training are brought to.

    Returns
    -------
    float
        1 unless another one is clearly better, or if there are too few images to tell.
    """
    at_1 = working_regions(regions, model.replace(magnification=1.0), pixel_size)
    intensity, planted = _planted(network, regions, at_1, training)
    smallest = min(min(region.plane.shape) for region in at_1)
    candidates = [z for z in _CANDIDATES if z >= 1 or smallest >= PLANTED_SIDE]
    measured: dict[float, Maxima] = {}
    if planted is not None:
        for candidate in candidates:
            config = model.replace(magnification=candidate)
            maxima = yield from _measured(network, regions, pixel_size, config, training, planted, intensity)
            if maxima is not None and maxima.has_same_defects(measured.get(1.0, maxima)):
                measured[candidate] = maxima
    if 1.0 not in measured or len(measured) < 2:
        text = "there are too few normal images to choose a magnification by planted defects; it is 1"
        yield from or_stop(Message(text))
        return 1.0
    chosen = chosen_magnification(measured)
    yield from or_stop(Message(_text(measured, chosen)))
    return chosen


def _text(measured: dict[float, Maxima], chosen: float) -> str:
    """Return what was found at each magnification, and the consequence."""
    n_defects = len(measured[1.0].of_defects)
    found = ", ".join(f"{m.n_found} at magnification {z:g} ({100 * m.merit:.1f} %)" for z, m in measured.items())
    if chosen != 1:
        consequence = f"the network sees the images at magnification {chosen:g}"
    elif max(measured, key=lambda z: measured[z].merit) == 1:
        consequence = "the images keep magnification 1"
    else:
        consequence = "the images keep magnification 1, as no other is clearly better"
    return (
        f"Of {counted(n_defects, 'planted defect')}, the untrained model finds at one false alarm in ten images "
        f"(on average, at 0 to 1 false alarms per image): {found}; {consequence}"
    )


def chosen_magnification(measured: dict[float, Maxima]) -> float:
    """Return the magnification of the best figure of merit among those clearly better than 1; 1 without any.

    Parameters
    ----------
    measured : dict of float to Maxima
        Maxima of the evidence at each magnification, on the same defects; that of 1 among them.
    """
    better = [z for z in measured if z != 1 and measured[z].versus(measured[1.0]).is_clear]
    return max(better, key=lambda z: measured[z].merit, default=1.0)


def _planted(
    network: UFlow, regions: Sequence[NormalRegion], working: Sequence[NormalRegion], training: TrainingConfig
) -> tuple[IntensityRange, PlantedSet | None]:
    """Plant defects into held-out images, or into at most half of the training tiles besides."""
    rng = np.random.default_rng((training.seed, 1))
    split = choose_tiles(working, network.tile, network.align, training, rng)
    intensity = IntensityRange.fit(regions_of(split.train), rng=rng)
    sources = sources_of(
        regions, working, split, network, rng, min_normal=training.min_normal, most_pixels=_MOST_PIXELS / 2
    )
    is_trained = [source.key is not None and source.specimen in split.specimens for source in sources]
    held_out = [source for source, trained in zip(sources, is_trained, strict=True) if not trained]
    others = [source for source, trained in zip(sources, is_trained, strict=True) if trained][: len(split.train) // 2]
    # The memories of this choice know no part of any source.
    kept = [replace(source, key=None) for source in held_out + others]
    return intensity, planted_set(kept, intensity.span, training.seed, most_pixels=_MOST_PIXELS)


def _measured(
    network: UFlow,
    regions: Sequence[NormalRegion],
    pixel_size: PixelSize | None,
    model: ModelConfig,
    training: TrainingConfig,
    planted: PlantedSet,
    intensity: IntensityRange,
) -> Steps[Maxima | None]:
    """Fit an untrained model at one magnification and judge it; None if no tile is left to fit it to."""
    working = working_regions(regions, model, pixel_size)
    rng = np.random.default_rng((training.seed, 2))
    try:
        split = choose_tiles(working, network.tile, network.align, training, rng)
    except ImageError:
        return None
    plane_of = {id(w.plane): r.plane for w, r in zip(working, regions, strict=True)}
    tiles = [
        tile
        for tile in split.train
        if not any(
            plane_of[id(tile.region.plane)].is_same_image(source.plane)
            and _overlap(tile, source, model.magnification * source.ratio)
            for source in planted.sources
        )
    ]
    if len(tiles) < 2:
        return None
    order = np.sort(rng.permutation(len(tiles))[:_MOST_TILES])
    trial = UFlow(model, network.n_channels, training.seed)
    trial.backbone = network.backbone
    trial.to(network.device).eval()
    phase = f"Trying magnification {model.magnification:g}"
    with FeatureCaches.open(training.cache_memory * 1e9, network.device) as caches:
        yield from fill_cache(caches.train, trial, [tiles[int(i)] for i in order], intensity, 1, phase)
        caches.apply_border(trial.border, trial.strides)
        try:
            yield from normalise_steps(trial, caches)
        except ImageError:
            return None
        yield from evidence_steps(trial, caches, rng)
    features = yield from PlantedFeatures.compute_steps(trial, planted, intensity, phase)
    if features is None:
        return None
    evidence = "likelihood+memory" if model.evidence == "auto" else model.evidence
    return features.maxima(features.likelihoods(trial), evidence)


def _overlap(tile: TrainingTile, source: Source, magnification: float) -> bool:
    window = source.window
    row, col = (math.floor(at * magnification) for at in (window.row, window.col))
    stop_row, stop_col = (math.ceil(at * magnification) for at in (window.stop_row, window.stop_col))
    return tile.window.overlaps(Window(row, col, stop_row - row, stop_col - col))
