"""Full-size maps of a detection: heatmap, log10 NFA, labels."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.model.energy import likelihood_heatmap
from napari_uflow.model.inference import ScoreMaps
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.binomial import binomial_log10_nfa
from napari_uflow.nfa.counts import log10_tests_for_any_size, log10_tests_published
from napari_uflow.nfa.segment import (
    LevelRegions,
    combine_levels_in_pieces,
    label_mask_in_pieces,
    published_regions,
    significant_regions_in_pieces,
)
from napari_uflow.nfa.significance import chi2_log10_tail
from napari_uflow.progress import Pieces, Progress, Steps, or_stop
from napari_uflow.system.scratch import allocate_map, let_go, strips

__all__ = ["LEAST_BACKGROUND", "heatmap_steps", "labels_in_pieces", "log10_nfa_in_pieces"]

# log10 NFA of pixels in no region, at least: the log10_n_tests of a test in an image of a few positions may be below every
# threshold. Above the log10 of the largest number of false alarms that can be asked for.
LEAST_BACKGROUND = 2.0


def heatmap_steps(scores: ScoreMaps, shape: tuple[int, int]) -> Steps[NDArray[np.float32]]:
    """Likelihood heatmap, (M, N), strip by strip; NaN where not measured."""
    coarsest = max(scores.strides)
    n_rows, n_cols = (-(-n // coarsest) for n in shape)
    score = allocate_map(shape, np.float32)
    for start, stop in strips(shape, coarsest):
        yield from or_stop(Progress("Drawing the heatmap", start, shape[0]))
        # one coarsest position more on each side: pixels are interpolated between the centres of positions
        first, last = max(start // coarsest - 1, 0), min(-(-stop // coarsest) + 1, n_rows)
        parts = []
        for values, stride in zip(scores.energies, scores.strides, strict=True):
            rows = values[first * coarsest // stride : last * coarsest // stride]
            size = ((last - first) * coarsest // stride, n_cols * coarsest // stride)
            missing = [(0, n - m) for n, m in zip(size, rows.shape, strict=True)]
            parts.append(torch.from_numpy(np.nan_to_num(np.pad(rows, missing, mode="edge"), nan=0.0))[None])
        drawn = likelihood_heatmap(parts, ((last - first) * coarsest, n_cols * coarsest))[0].numpy()
        score[start:stop] = drawn[start - first * coarsest : stop - first * coarsest, : shape[1]]
        score[start:stop][_unmeasured(scores, shape, start, stop)] = np.nan
        let_go(score)
    return score


def _unmeasured(
    scores: ScoreMaps, shape: tuple[int, int], start: int = 0, stop: int | None = None
) -> NDArray[np.bool_]:
    """Return which pixels lie in a position of the finest level that was not measured, (stop - start, N)."""
    finest = scores.strides[0]
    stop = shape[0] if stop is None else stop
    first = start // finest
    missing = ~np.isfinite(scores.energies[0][first : -(-stop // finest)])
    return missing.repeat(finest, 0).repeat(finest, 1)[start - first * finest : stop - first * finest, : shape[1]]


def log10_nfa_in_pieces(
    scores: ScoreMaps,
    network: UFlow,
    model: TrainedModel,
    config: DetectionConfig,
    shape: tuple[int, int],
    n_sharing: int,
) -> Pieces[NDArray[np.float32]]:
    """log10 NFA of every pixel by the method that was asked for, (M, N).

    It is the number expected in so many images: each is one more that is tested, whatever they have in common.
    """
    more = math.log10(n_sharing)
    energies, strides, channels = scores.energies, scores.strides, network.flow.latent_channels
    if config.nfa == "binomial":
        values = binomial_log10_nfa(
            scores.candidates,
            channels,
            strides,
            shape,
            window_size=config.window_size,
            probability_thr=config.binomial_probability_thr,
            high_precision=config.high_precision,
            published=config.as_published,
        )
        # No test in an image of a few positions, and no measurement, is no reason to report anything.
        log10_n_tests = math.log10(sum(e.size for e in energies))
        nothing = (values > log10_n_tests - 1e-6) | _unmeasured(scores, shape)
        return np.where(nothing, np.float32(max(log10_n_tests + more, LEAST_BACKGROUND)), values + np.float32(more))
    if config.nfa == "paper":
        levels = published_regions(energies, channels, one_sided=not config.as_published)
        background = log10_tests_published([e.size for e in energies])
    elif config.calibration == "none" or model.calibration is None:
        all_log10_n_tests = [
            log10_tests_for_any_size(max(1, int(np.isfinite(e).sum())), len(energies)) for e in energies
        ]
        levels = []
        for e, c, log10_n_tests in zip(energies, channels, all_log10_n_tests, strict=True):
            levels.append((yield from significant_regions_in_pieces(chi2_log10_tail(e, c), log10_n_tests)))
            yield
        background = max(all_log10_n_tests)
    else:
        levels = yield from model.calibration.regions_in_pieces(
            scores.tested, guaranteed=config.calibration == "conformal"
        )
        strides = scores.tested_strides
        background = max((float(level.log10_nfa.max()) for level in levels if level.log10_nfa.size), default=0.0)
    levels = [LevelRegions(level.labels, level.log10_nfa + more) for level in levels]
    background = max(background + more, LEAST_BACKGROUND)
    out = allocate_map(shape, np.float32)
    return (yield from combine_levels_in_pieces(levels, strides, shape, background=background, out=out))


def labels_in_pieces(log10_nfa: NDArray[np.float32], false_alarms: float) -> Pieces[NDArray[np.int32]]:
    """Labels of the regions whose NFA is below a number of false alarms, (M, N), the most significant is 1."""
    return label_mask_in_pieces(log10_nfa, math.log10(false_alarms), out=allocate_map(log10_nfa.shape, np.int32))
