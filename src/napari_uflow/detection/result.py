"""What detection returns: maps, labels and a table of regions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.progress import Pieces, at_once
from napari_uflow.system.scratch import let_go, strips

__all__ = ["Detection", "Provenance", "RegionTable"]


@dataclass(frozen=True, eq=False)
class RegionTable:
    """The anomalous regions of one plane, the most significant first; one entry per region in every array.

    Attributes
    ----------
    label : (n,) array, int32
        The region's label in the labels map, 1 to n.
    log10_nfa : (n,) array, float64
        log10 of the expected number of regions as strange as this in a normal image.
    area_px : (n,) array, int64
        Pixels.
    area : (n,) array, float64
        Area in the unit of the pixel size, squared; NaN where the pixel size is unknown.
    centroid_row, centroid_col : (n,) array, float64
        Centre of the region, in pixels; the centre of the first pixel is 0.
    first_row, first_col, stop_row, stop_col : (n,) array, int64
        Bounding box, half-open, in pixels.
    peak_score, mean_score : (n,) array, float32
        Highest and mean value of the heatmap in the region.
    """

    label: NDArray[np.int32]
    log10_nfa: NDArray[np.float64]
    area_px: NDArray[np.int64]
    area: NDArray[np.float64]
    centroid_row: NDArray[np.float64]
    centroid_col: NDArray[np.float64]
    first_row: NDArray[np.int64]
    first_col: NDArray[np.int64]
    stop_row: NDArray[np.int64]
    stop_col: NDArray[np.int64]
    peak_score: NDArray[np.float32]
    mean_score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, in order."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def rows(self) -> Iterator[dict[str, int | float]]:
        """Yield each region as plain numbers by name."""
        columns = self.columns()
        for i in range(len(self)):
            yield {name: values[i].item() for name, values in columns.items()}

    @classmethod
    def measure(
        cls,
        labels: NDArray[np.int32],
        log10_nfa: NDArray[np.float32],
        score: NDArray[np.float32],
        pixel_size: tuple[float, float] | None = None,
    ) -> RegionTable:
        """Measure the regions of a labels map.

        Parameters
        ----------
        labels : (M, N) array, int32
            0 outside, 1 to n without gaps inside the regions.
        log10_nfa, score : (M, N) array, float32
            The maps to measure; NaN is left out.
        pixel_size : (float, float), optional
            Height and width of a pixel.
        """
        return at_once(cls.measure_in_pieces(labels, log10_nfa, score, pixel_size))

    @classmethod
    def measure_in_pieces(
        cls,
        labels: NDArray[np.int32],
        log10_nfa: NDArray[np.float32],
        score: NDArray[np.float32],
        pixel_size: tuple[float, float] | None = None,
    ) -> Pieces[RegionTable]:
        """Measure the regions as :meth:`measure` does, strip by strip, with a pause behind each."""
        n = 0
        for start, stop in strips(labels.shape):
            n = max(n, int(labels[start:stop].max(initial=0)))
            let_go(labels)
        area = np.zeros(n, dtype=np.int64)
        lowest = np.full(n, np.inf)
        peak, sum_scores, sum_rows, sum_cols = np.zeros((4, n))
        first_row, first_col = np.full((2, n), np.iinfo(np.int64).max, dtype=np.int64)
        stop_row, stop_col = np.zeros((2, n), dtype=np.int64)
        for start, stop in strips(labels.shape):
            rows, cols = np.nonzero(labels[start:stop])
            rows += start
            of = labels[rows, cols].astype(np.int64) - 1
            scores = np.nan_to_num(score[rows, cols].astype(np.float64))
            area += np.bincount(of, minlength=n)
            sum_scores += np.bincount(of, scores, minlength=n)
            sum_rows += np.bincount(of, rows, minlength=n)
            sum_cols += np.bincount(of, cols, minlength=n)
            np.minimum.at(lowest, of, np.nan_to_num(log10_nfa[rows, cols].astype(np.float64), nan=np.inf))
            np.maximum.at(peak, of, scores)
            np.minimum.at(first_row, of, rows)
            np.minimum.at(first_col, of, cols)
            np.maximum.at(stop_row, of, rows + 1)
            np.maximum.at(stop_col, of, cols + 1)
            let_go(labels, log10_nfa, score)
            yield
        count = np.maximum(area, 1)
        pixel_area = pixel_size[0] * pixel_size[1] if pixel_size is not None else np.nan
        return cls(
            label=np.arange(1, n + 1, dtype=np.int32),
            log10_nfa=lowest,
            area_px=area,
            area=(area * pixel_area).astype(np.float64),
            centroid_row=sum_rows / count,
            centroid_col=sum_cols / count,
            first_row=first_row,
            first_col=first_col,
            stop_row=stop_row,
            stop_col=stop_col,
            peak_score=peak.astype(np.float32),
            mean_score=(sum_scores / count).astype(np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin of a detection.

    Attributes
    ----------
    source : str or None
        File of the image; None for an image that was not read from a file.
    version : str
        Version of napari-uflow.
    backbone, feature_norm : str
        Backbone and feature normalisation of the model.
    trained : str or None
        Date of the training.
    """

    source: str | None = None
    version: str = ""
    backbone: str = ""
    feature_norm: str = ""
    trained: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Detection:
    """Anomalous regions and maps of one plane.

    Attributes
    ----------
    name : str
        Name of the plane.
    score : (M, N) array, float32
        Heatmap, 0 to 1: one minus the mean likelihood over the levels, as published; NaN where not measured.
    log10_nfa : (M, N) array, float32
        log10 of the number of false alarms of the region that a pixel lies in; above every threshold outside.
    labels : (M, N) array, int32
        0 outside, 1 to n in the anomalous regions, the most significant first.
    regions : RegionTable
        One row per label.
    energies : tuple of arrays, each (ceil(M / stride), ceil(N / stride)), float32
        Mean of the squared latents, finest level first; NaN where not measured.
    strides : tuple of int
        Pixels between two positions of each level.
    config : DetectionConfig
        Parameters, with the number of false alarms that `labels` and `regions` were made for.
    guarantee : Guarantee
        Basis of the number of false alarms.
    n_planes : int
        Planes of the stack that the plane belongs to; 1 for a single image.
    n_marked_normal : int
        Regions that were detected and then marked normal.
    pixel_size : (float, float) or None
        Height and width of a pixel in `unit`.
    unit : str or None
        Unit of the pixel size.
    provenance : Provenance
        File, model and version.
    """

    name: str
    score: NDArray[np.float32] = field(repr=False)
    log10_nfa: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int32] = field(repr=False)
    regions: RegionTable = field(repr=False)
    energies: tuple[NDArray[np.float32], ...] = field(repr=False)
    strides: tuple[int, ...]
    config: DetectionConfig
    guarantee: Guarantee
    n_planes: int = 1
    n_marked_normal: int = 0
    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
    provenance: Provenance = field(default=Provenance(), repr=False)

    @property
    def false_alarms(self) -> float:
        """False alarms accepted per image or stack."""
        return self.config.false_alarms

    @property
    def lowest_log10_nfa(self) -> float:
        """log10 NFA of the strangest region; how strange the image is as a whole."""
        lowest = math.nan
        for start, stop in strips(self.log10_nfa.shape):
            lowest = float(np.fmin(lowest, np.fmin.reduce(self.log10_nfa[start:stop], axis=None)))
            let_go(self.log10_nfa)
        return lowest

    def numbered_after(self, n: int) -> Detection:
        """Return the same with labels from n + 1 on, for labels that are unique over a stack.

        Parameters
        ----------
        n : int
            Regions in the planes before.
        """
        if not n or not len(self.regions):
            return self
        labels = np.where(self.labels > 0, self.labels + np.int32(n), 0).astype(np.int32)
        return replace(self, labels=labels, regions=replace(self.regions, label=self.regions.label + np.int32(n)))
