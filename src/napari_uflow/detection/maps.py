"""Full-size maps of a detection: heatmap, log10 NFA, labels; computed in chunks between which a job may stop."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.outline import outline_steps
from napari_uflow.detection.regions import RegionMeasure, RegionTable
from napari_uflow.image.interpolation import interpolated
from napari_uflow.image.plane import Plane
from napari_uflow.model.inference import ScoreMaps
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.nfa.binomial import binomial_log10_nfa
from napari_uflow.nfa.calibrated import Calibration
from napari_uflow.nfa.counts import log10_tests_for_any_size, log10_tests_published
from napari_uflow.nfa.drawing import LevelCanvas
from napari_uflow.nfa.growth import grow_regions
from napari_uflow.nfa.labelling import StripLabels
from napari_uflow.nfa.segment import LevelRegions, RegionTest, published_regions
from napari_uflow.nfa.significance import chi2_log10_tail
from napari_uflow.progress import Progress, Steps, or_stop
from napari_uflow.system.scratch import allocate_map, release_pages, strips

__all__ = ["LEAST_BACKGROUND", "heatmap_steps", "label_steps", "log10_nfa_steps", "measure_steps"]

# log10 of the part of normal positions that regions do not grow into.
_LOG10_NORMAL = -2.0
LEAST_BACKGROUND = 2.0
"""Lowest log10 NFA of pixels in no region, above the log10 of the largest number of false alarms that can be accepted.

The number of tests in an image of a few positions may be below a threshold.
"""


def heatmap_steps(
    scores: ScoreMaps, calibration: Calibration | None, config: DetectionConfig, shape: tuple[int, int]
) -> Steps[NDArray[np.float32]]:
    """Compute the heatmap (M, N) of the configuration, strip by strip; NaN in pixels that were not measured.

    Parameters
    ----------
    scores : ScoreMaps
        Score maps of the image.
    calibration : Calibration or None
        Calibration of the model.
    config : DetectionConfig
        Kind of heatmap.
    shape : (int, int)
        Rows and columns (M, N) of the image.
    """
    levels, strides = _heat(scores, calibration, config)
    score = allocate_map(shape, np.float32)
    for start, stop in strips(shape):
        yield from or_stop(Progress("Drawing the heatmap", start, shape[0]))
        drawn = [interpolated(x, stride, start, stop, shape[1]) for x, stride in zip(levels, strides, strict=True)]
        score[start:stop] = np.mean(drawn, axis=0)
        score[start:stop][_unmeasured(scores, shape, start, stop)] = np.nan
        release_pages(score)
    return score


def _heat(
    scores: ScoreMaps, calibration: Calibration | None, config: DetectionConfig
) -> tuple[list[NDArray[np.float32]], tuple[float, ...]]:
    """Return the maps whose mean is the heatmap, without gaps, and their strides."""
    if config.heatmap == "published":
        likelihood = [np.exp(-0.5 * np.nan_to_num(energy, nan=0.0)) for energy in scores.energies]
        return [1 - x for x in likelihood], scores.strides
    if calibration is not None:
        return [-x.astype(np.float32) for x in calibration.log10_p(scores.tested)], scores.tested_strides
    if scores.evidence:  # as of an exponential law with this .99 quantile
        return [np.maximum(2 * np.nan_to_num(x, nan=0.0), 0) for x in scores.evidence], scores.strides
    tails = [chi2_log10_tail(e, c) for e, c in zip(scores.energies, scores.n_channels, strict=True)]
    return [-np.nan_to_num(x, nan=0.0).astype(np.float32) for x in tails], scores.strides


def _unmeasured(
    scores: ScoreMaps, shape: tuple[int, int], start: int = 0, stop: int | None = None
) -> NDArray[np.bool_]:
    """Return a mask (stop - start, N) of the pixels in positions of the finest level that were not measured."""
    rows, cols = (
        ((np.arange(*part) + 0.5) / scores.strides[0]).astype(np.int64)
        for part in ((start, shape[0] if stop is None else stop), (0, shape[1]))
    )
    missing: NDArray[np.bool_] = ~np.isfinite(scores.energies[0][rows])
    return missing[:, cols]


def log10_nfa_steps(
    scores: ScoreMaps,
    plane: Plane,
    model: TrainedModel,
    config: DetectionConfig,
    n_images: int,
    progress: Progress,
) -> Steps[NDArray[np.float32]]:
    """Compute log10 NFA of every pixel (M, N), expected in `n_images` images, by the method of the configuration.

    Regions of evidence grow to the objects that they are the core of, whose outlines follow the image. The others are
    drawn as they are.

    Parameters
    ----------
    scores : ScoreMaps
        Score maps of the image.
    plane : Plane
        The image.
    model : TrainedModel
        Model with the calibration to use.
    config : DetectionConfig
        Method and calibration.
    n_images : int
        Images that share the accepted false alarms: each of them multiplies the number of tests, correlated or not.
    progress : Progress
        Event to yield between chunks.
    """
    log10_n_images, shape = math.log10(n_images), plane.shape
    if config.nfa == "binomial":
        return _binomial(scores, config, shape, log10_n_images)
    levels, background, strides = yield from _level_regions(scores, model, config, progress)
    levels = [LevelRegions(level.labels, level.log10_nfa + log10_n_images) for level in levels]
    background = max(background + log10_n_images, LEAST_BACKGROUND)
    is_of_evidence = config.nfa == "size-conditional" and config.calibration != "none" and bool(scores.evidence)
    if is_of_evidence and model.calibration is not None:
        (evidence,), (level,), (of,) = scores.evidence, levels, model.calibration.maps
        median = float(np.nanmedian(evidence)) if of.subtracts_median and np.isfinite(evidence).any() else 0.0
        normal_level = median + of.tail.value_at(_LOG10_NORMAL)
        grown = grow_regions(_reportable(level), evidence, normal_level=normal_level, normal_median=median)
        return (yield from outline_steps(grown, evidence, plane, strides[0], background=background, progress=progress))
    canvas = LevelCanvas(levels, strides, shape, background=background, out=allocate_map(shape, np.float32))
    for start, stop in strips(shape):
        canvas.draw(start, stop)
        yield from or_stop(progress)
    return canvas.image


def _reportable(level: LevelRegions) -> LevelRegions:
    """Return the regions that are below the background, and so may be reported at some number of false alarms."""
    n = int(np.searchsorted(level.log10_nfa.astype(np.float32), LEAST_BACKGROUND))
    labels = np.where(level.labels <= n, level.labels, 0).astype(np.int32)
    return LevelRegions(labels, level.log10_nfa[:n])


def _binomial(
    scores: ScoreMaps,
    config: DetectionConfig,
    shape: tuple[int, int],
    log10_n_images: float,
) -> NDArray[np.float32]:
    m = scores.magnification
    values = binomial_log10_nfa(
        scores.candidates,
        scores.n_channels,
        [round(stride * m) for stride in scores.strides],
        (math.ceil(shape[0] * m - 1e-9), math.ceil(shape[1] * m - 1e-9)),
        window_size=config.window_size,
        probability_thr=config.binomial_probability_thr,
        high_precision=config.high_precision,
        published=config.as_published,
    )
    if m != 1:  # the windows are those of the magnified image
        rows, cols = (
            np.minimum(((np.arange(n) + 0.5) * m).astype(np.int64), values.shape[axis] - 1)
            for axis, n in enumerate(shape)
        )
        values = values[rows[:, None], cols]
    # A pixel without a test or a measurement gets the number of tests, which may be small: it must not be reported.
    log10_n_tests = math.log10(sum(e.size for e in scores.energies))
    nothing = (values > log10_n_tests - 1e-6) | _unmeasured(scores, shape)
    background = np.float32(max(log10_n_tests + log10_n_images, LEAST_BACKGROUND))
    return np.where(nothing, background, values + np.float32(log10_n_images))


def _level_regions(
    scores: ScoreMaps, model: TrainedModel, config: DetectionConfig, progress: Progress
) -> Steps[tuple[list[LevelRegions], float, tuple[float, ...]]]:
    """Return the regions of each map, the log10 NFA of pixels in none of them, and the strides of the maps."""
    energies = scores.energies
    if config.nfa == "paper":
        levels = published_regions(energies, scores.n_channels, one_sided=not config.as_published)
        return levels, log10_tests_published([e.size for e in energies]), scores.strides
    if config.calibration == "none" or model.calibration is None:
        n_positions = [max(1, int(np.isfinite(e).sum())) for e in energies]
        log10_n_tests = [log10_tests_for_any_size(n, len(energies)) for n in n_positions]
        each = zip(energies, scores.n_channels, log10_n_tests, strict=True)
        tests = (RegionTest(chi2_log10_tail(e, c), n) for e, c, n in each)
        return (yield from _run(tests, progress)), max(log10_n_tests), scores.strides
    levels = yield from _run(model.calibration.tests(scores.tested), progress)
    if config.calibration == "conformal":
        levels = model.calibration.guaranteed(levels)
    levels = model.calibration.per_image(levels, scores.tested)
    background = max((float(level.log10_nfa.max()) for level in levels if level.log10_nfa.size), default=0.0)
    return levels, background, scores.tested_strides


def _run(tests: Iterable[RegionTest], progress: Progress) -> Steps[list[LevelRegions]]:
    levels = []
    for test in tests:
        yield from or_stop(progress)
        while test.grow():
            yield from or_stop(progress)
        levels.append(test.run())
    return levels


def label_steps(log10_nfa: NDArray[np.float32], false_alarms: float, progress: Progress) -> Steps[NDArray[np.int32]]:
    """Label the regions (M, N) whose NFA is at most a number of false alarms; the most significant is 1."""
    parts = StripLabels(log10_nfa, math.log10(false_alarms), out=allocate_map(log10_nfa.shape, np.int32))
    for start, stop in strips(log10_nfa.shape):
        parts.put(start, stop)
        yield from or_stop(progress)
    parts.join()
    for start, stop in strips(log10_nfa.shape):
        parts.renumber(start, stop)
        yield from or_stop(progress)
    return parts.labels


def measure_steps(
    labels: NDArray[np.int32],
    log10_nfa: NDArray[np.float32],
    score: NDArray[np.float32],
    pixel_size: tuple[float, float] | None,
    progress: Progress,
) -> Steps[RegionTable]:
    """Measure the regions of a labels map as :meth:`RegionTable.measure` does."""
    measure = RegionMeasure(labels, log10_nfa, score)
    for start, stop in strips(labels.shape):
        measure.put(start, stop)
        yield from or_stop(progress)
    return measure.table(pixel_size)
